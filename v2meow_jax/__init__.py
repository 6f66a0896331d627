"""V2Meow in JAX: music for a video, by three Transformers over audio tokens and a neural codec."""

__version__ = '0.1.0'
