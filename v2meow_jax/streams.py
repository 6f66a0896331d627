"""What a clip is made of: named streams, each with a rate, a width and, for tokens, a vocabulary.

Every other room speaks in these terms. Element `i` of a stream covers the time from `i / rate` to
`(i + 1) / rate` seconds of its clip.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import numpy as np

import gin
from v2meow_jax import errors

# Of keys that say which examples of a batch are of which dataset, where there are several: `dataset/NAME`.
DATASET = 'dataset/'

KINDS = ('embedding', 'tokens', 'audio')

# How a stream's elements lie in a record. Embeddings lose nothing that training would notice in
# float16; 65,536 codes a level are more than any published codec has.
RECORD_DTYPES = {'embedding': np.float16, 'tokens': np.uint16, 'audio': np.int16}


@gin.register
@dataclasses.dataclass(frozen=True)
class Stream:
  """A named sequence of vectors, token tuples or audio samples in time.

  Attributes:
    name: a path such as `video/motion` or `audio/semantic`.
    kind: `embedding` (float vectors), `tokens` (integers below `codes`) or `audio` (PCM samples).
    rate: elements a second in Hz; anything `fractions.Fraction` reads. 0: one vector for the clip.
    width: dimensions of an embedding, codebook levels of tokens, or audio channels.
    codes: vocabulary of one level; tokens only.
  """

  name: str
  kind: str
  rate: Fraction
  width: int = 1
  codes: int = 0

  def __post_init__(self):
    try:
      object.__setattr__(self, 'rate', Fraction(self.rate))
    except (ValueError, TypeError, ArithmeticError) as error:
      raise errors.ConfigError(
        f'stream {self.name!r}: rate {self.rate!r} is not a number of elements a second'
      ) from error
    parts = self.name.split('/')
    if not all(part and part.replace('_', '').replace('-', '').isalnum() for part in parts):
      raise errors.ConfigError(
        f'stream {self.name!r}: a name is a path of letters, digits, "-" and "_", such as audio/semantic'
      )
    if self.kind not in KINDS:
      raise errors.ConfigError(f'stream {self.name!r}: kind {self.kind!r} is not one of {", ".join(KINDS)}')
    if self.rate < 0:
      raise errors.ConfigError(f'stream {self.name!r}: rate {self.rate} is negative')
    if self.width < 1:
      raise errors.ConfigError(f'stream {self.name!r}: width {self.width} is not a positive number')
    if self.kind == 'tokens' and not 1 < self.codes <= 65536:
      raise errors.ConfigError(
        f'stream {self.name!r}: tokens need between 2 and 65536 codes a level, not {self.codes}'
      )
    if self.kind != 'tokens' and self.codes:
      raise errors.ConfigError(f'stream {self.name!r}: only tokens have codes')

  @property
  def dtype(self) -> np.dtype:
    """How an element is stored in a record."""
    return np.dtype(RECORD_DTYPES[self.kind])

  def length(self, seconds: float | Fraction) -> int:
    """Number of elements in a span of `seconds`, rounded to the nearest; 1 where the rate is 0."""
    if not self.rate:
      return 1
    return round(Fraction(seconds) * self.rate)

  def index(self, seconds: float | Fraction) -> int:
    """The element whose start is nearest to `seconds`; always 0 where the rate is 0."""
    return round(Fraction(seconds) * self.rate)

  def bits_per_second(self) -> float:
    """What the tokens cost if every code were equally likely."""
    if self.kind != 'tokens':
      raise errors.ConfigError(f'stream {self.name!r} is no token stream and has no bit rate')
    return float(self.rate * self.width * np.log2(self.codes))


# How elements reach a model.
MODEL_DTYPES = {'embedding': np.float32, 'tokens': np.int32, 'audio': np.int16}


def crop(
  stream: Stream, read: Callable[[int, int], np.ndarray], start: Fraction, seconds: Fraction
) -> dict[str, Any]:
  """A stream from `start` for `seconds`, at its fixed length, as models and batches take it.

  Args:
    stream: which.
    read: (first, stop) -> elements [at most stop - first, width], fewer where the clip ends.
    start: of the crop within the clip, in seconds; elements are cut at the nearest index.
    seconds: length of the crop.

  Returns:
    `NAME` [n, width], float32 embeddings, int32 tokens or int16 audio, zero after the clip's end;
    `NAME/mask` [n] bool, False there; `NAME/offset` float32, start of element 0 minus start of the
    crop, in seconds.
  """
  length, first = stream.length(seconds), stream.index(start)
  found = read(first, first + length)
  values = np.zeros((length, stream.width), MODEL_DTYPES[stream.kind])
  values[: len(found)] = found
  offset = first / stream.rate - start if stream.rate else 0
  return {
    stream.name: values,
    f'{stream.name}/mask': np.arange(length) < len(found),
    f'{stream.name}/offset': np.float32(offset),
  }


def crop_all(
  streams: Iterable[Stream],
  read: Callable[[Stream, int, int], np.ndarray],
  start: Fraction,
  seconds: Fraction,
) -> dict[str, Any]:
  """An example: every stream from `start` for `seconds`, as `crop` cuts it; `read` is told which stream."""
  example = {}
  for stream in streams:
    example |= crop(stream, functools.partial(read, stream), start, seconds)
  return example


def read_nothing(stream: Stream, first: int, stop: int) -> np.ndarray:
  """What `crop_all` reads where only the shapes of an example are wanted."""
  del first, stop
  return np.zeros((0, stream.width), stream.dtype)
