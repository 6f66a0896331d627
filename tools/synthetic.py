"""Streams without media, for tools that need a dataset and no meaning."""

import numpy as np

from v2meow_jax.streams import Stream


class Synthetic:
  """An encoder whose elements are a hash of stream and clip."""

  def __init__(self, stream: Stream):
    self.stream, self.identity = stream, {'encoder': 'synthetic', 'stream': stream.name}

  def encode_clip(self, clip) -> np.ndarray:
    """Elements of a clip, told from others by its start."""
    rng = np.random.default_rng([int(clip.start), self.stream.width])
    shape = (self.stream.length(clip.duration), self.stream.width)
    is_embedding = self.stream.kind == 'embedding'
    return rng.normal(size=shape) if is_embedding else rng.integers(0, self.stream.codes, shape)
