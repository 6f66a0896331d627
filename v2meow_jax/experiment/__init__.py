"""What gin wires into a run: configuration, training, warm starts, samples, plans, dry runs."""
