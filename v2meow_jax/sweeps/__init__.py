"""Sweeps: what varies, the trials that follow, where they run, and the table that they end in."""
