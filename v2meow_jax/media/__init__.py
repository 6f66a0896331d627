"""Files: probe, frames at an exact rate, audio load, resample and write, loudness, mux."""
