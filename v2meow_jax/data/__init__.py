"""Datasets of clips x streams: format, preparation, computed order, SeqIO, and the visualizer."""
