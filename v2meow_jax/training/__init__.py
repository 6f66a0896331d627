"""Step, loop, checkpoints and metrics for whatever is `Trainable`; knows no codec and no stage."""
