"""Which clip, and where in it, example n of a run is: computed, not stored.

Example n is clip `permutation(seed, epoch)[n mod clips]` with `epoch = n div clips`; its crop's
position is a hash of seed, epoch and the clip's id. Any example can be found from its number alone,
so a run's data position is one integer and the examples do not depend on the number of hosts.
"""

import functools
import hashlib
from fractions import Fraction

import numpy as np

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
  """SplitMix64's finaliser (Steele, Lea and Flood 2014): a bijection of 64 bits that looks random."""
  value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
  value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
  return value ^ (value >> 31)


def fold(*values: int) -> int:
  """A 64-bit hash of integers."""
  state = 0
  for value in values:
    state = _mix((state + 0x9E3779B97F4A7C15 + (value & _MASK)) & _MASK)
  return state


def clip_hash(clip_id: str) -> int:
  """A 64-bit hash of a clip's id, the same in every process."""
  return int.from_bytes(hashlib.blake2b(clip_id.encode(), digest_size=8).digest(), 'little')


@functools.lru_cache(4)
def permutation(seed: int, epoch: int, clips: int) -> np.ndarray:
  """Order of the clips in an epoch: they are sorted by the numbers of a Philox4x64-10 (Salmon et al. 2011).

  NumPy promises the numbers of its bit generators for all versions, and of its `permutation` it does not.
  """
  numbers = np.random.Philox(key=fold(seed, epoch)).random_raw(clips)
  # Half as large, as an order of millions of clips is kept.
  return np.argsort(numbers, kind='stable').astype(np.uint32)


def locate(n: int, clips: int, seed: int) -> tuple[int, int]:
  """(clip, epoch) of example n of a run."""
  epoch, place = divmod(n, clips)
  return int(permutation(seed, epoch, clips)[place]), epoch


def crop_start(
  clip: int, epoch: int, seed: int, duration: Fraction, crop: Fraction, grid: Fraction
) -> Fraction:
  """Start of a crop in seconds, on the grid of `grid` Hz, uniform over all that fit; 0 where none fits.

  `clip` is its `clip_hash`.
  """
  places = int((duration - crop) * grid) + 1 if duration > crop else 1
  return Fraction(fold(seed, epoch, clip) % places) / grid
