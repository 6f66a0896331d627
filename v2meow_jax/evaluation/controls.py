"""Sound that every metric should know: truth through the codec, noise, silence, random tokens."""

import zlib

import numpy as np
from jaxtyping import Float

from v2meow_jax.codec.codec import Codec

# Way -> what it is. `made` is what is measured.
WAYS = {
  'made': 'what is measured',
  'truth': 'the music that belongs to the video, or is the reference',
  'shuffled': "another piece's truth",
  'codec': "the truth through the bundle's codec: the best that its stages can reach",
  'unigram': "tokens drawn by how often each occurs in the truth, through the bundle's codec",
  'noise': 'white noise, as strong as the truth',
  'silence': 'nothing',
}


def generator(name: str, way: str, seed: int) -> np.random.Generator:
  """Random numbers of a piece and a way, whatever else is measured."""
  return np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(way.encode())])


def noise(
  truth: Float[np.ndarray, 'samples channels'], rng: np.random.Generator
) -> Float[np.ndarray, 'samples channels']:
  """White noise of the truth's shape and RMS, below full scale."""
  level = float(np.sqrt(np.mean(np.square(truth, dtype=np.float64))))
  return np.clip(level * rng.standard_normal(truth.shape), -1, 1).astype(np.float32)


def unigram(
  codec: Codec, counts: Float[np.ndarray, 'levels codes'], frames: int, rng: np.random.Generator
) -> Float[np.ndarray, 'samples channels']:
  """Sound of tokens that are drawn independently, each level by its own counts."""
  shares = counts / counts.sum(1, keepdims=True)
  codes = np.stack([rng.choice(shares.shape[1], frames, p=share) for share in shares], 1)
  return codec.decode(codes.astype(np.int32))


def derangement(groups: list[str], seed: int = 0) -> list[int | None]:
  """For each piece another one, of another group, each about equally often; None where there is none."""
  count = len(groups)
  sequence = np.random.default_rng(seed).permutation(count)
  found: list[int | None] = [None] * count
  for place, own in enumerate(sequence):
    for step in range(1, count):
      other = int(sequence[(place + step) % count])
      if groups[other] != groups[own]:
        found[own] = other
        break
  return found
