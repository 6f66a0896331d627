"""T5X: its checkpoints, its names and its trainer; nothing else needs this room."""
