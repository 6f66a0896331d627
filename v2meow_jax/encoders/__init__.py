"""Frozen encoders: media to embeddings or semantic tokens."""
