"""What is measured of pictures: how much changes, what they look like, and which edges stay black."""

import itertools
import math

import msgspec
import numpy as np
from jaxtyping import UInt8

from v2meow_jax.data.spans import Span
from v2meow_jax.media import frames

RATE = 8  # pictures a second
SIZE = (64, 36)  # (width, height)
EVERY = 4  # of them that are hashed and searched for bars
LOOK_RATE = RATE // EVERY  # Hz
_BLOCK = 64  # pictures at once
_BLACK = 24  # of 255: the brightest of a bar, which compression leaves some noise


class Pictures(msgspec.Struct):
  """Of a span: arrays as bytes.

  Attributes:
    changes: float16, `RATE` a second: mean absolute difference to the picture before, of 255.
    hashes: uint64, `LOOK_RATE` a second: whether each of 8 x 8 fields is brighter than the next (dHash).
    contrasts: uint8, `LOOK_RATE` a second: standard deviation of luma, of 255.
    bars: uint8 [n, 4], `LOOK_RATE` a second: black rows at the top and bottom, columns left and right, of
      `SIZE`.
  """

  changes: bytes
  hashes: bytes
  contrasts: bytes
  bars: bytes


def measure(span: Span) -> Pictures:
  """Measures a span's pictures; raises `errors.MediaError` where they cannot be read."""
  assert span.video is not None
  changes, hashes, contrasts, bars = [], [], [], []
  # Whole looks, so that every block begins with one.
  seconds = math.ceil(span.seconds * LOOK_RATE) / LOOK_RATE
  read = frames.read_frames(span.video, RATE, SIZE, span.start, seconds)
  before = None
  for block in iter(lambda: list(itertools.islice(read, _BLOCK)), []):
    pictures = np.stack(block).astype(np.int16)
    joined = np.concatenate([pictures[:1] if before is None else before, pictures])
    changes.append(np.abs(np.diff(joined, axis=0)).mean((1, 2, 3)).astype(np.float16))
    before = pictures[-1:]
    looks = pictures[::EVERY].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    hashes.append(hashes_of(looks))
    contrasts.append(np.clip(looks.std((1, 2)), 0, 255).astype(np.uint8))
    bars.append(np.stack([bars_of(look) for look in looks]))
  return Pictures(*(np.concatenate(part).tobytes() for part in (changes, hashes, contrasts, bars)))


def hashes_of(luma: np.ndarray) -> np.ndarray:
  """Difference hashes of pictures [n, 36, 64], uint64 [n]."""
  rows = np.add.reduceat(luma, np.arange(8) * 36 // 8, 1)
  edges = np.arange(10) * 64 // 9
  fields = np.add.reduceat(rows, edges[:-1], 2)
  widths = np.diff(edges)
  bits = np.diff(fields / widths, axis=2) > 0
  return np.packbits(bits.reshape(-1, 64), axis=1).view('>u8')[:, 0].astype(np.uint64)


def bars_of(luma: UInt8[np.ndarray, 'height width']) -> UInt8[np.ndarray, ' 4']:
  """Black rows at the top and bottom and black columns left and right; of a picture all black none."""
  rows, columns = np.flatnonzero(luma.max(1) > _BLACK), np.flatnonzero(luma.max(0) > _BLACK)
  if not len(rows):
    return np.full(4, 255, np.uint8)  # says nothing
  height, width = luma.shape
  found = (rows[0], height - 1 - rows[-1], columns[0], width - 1 - columns[-1])
  return np.array(found, np.uint8)
