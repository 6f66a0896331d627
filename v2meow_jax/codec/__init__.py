"""Neural audio codecs: networks, residual vector quantiser, losses, their training step, and `Codec`."""
