"""`v2meow COMMAND`, one a file: reads flags, calls a room, prints, chooses the exit status."""
