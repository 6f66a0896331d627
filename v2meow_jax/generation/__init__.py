"""Sampling, the cached decode loop, windows over long clips, and the pipeline from video to audio."""
