"""How a stage's tokens are drawn: temperature, top-k, top-p, guidance, and how windows follow each other."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from v2meow_jax import errors


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a stage's tokens are drawn.

  Attributes:
    temperature: divides the logits; 0 takes the most likely token.
    top_k: only the k most likely tokens; 0: all.
    top_p: only the fewest most likely tokens whose probabilities sum to at least p (Holtzman et al.
      2020); 1: all.
    overlap: share of a window that is carried over from the one before, in [0, 1); with 0 the windows
      do not depend on each other and are decoded side by side.
    suppress: by level of the target, counted from its first: codes that are never drawn, such as those
      of silence, which a model otherwise finds hard to leave.
    guidance: pairs of a group of conditions, `video` or `style`, and the scale by which it is
      emphasised; 1, the default, leaves it as it is. See `guidance.branches`.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  overlap: float = 0.5
  suppress: tuple[tuple[int, ...], ...] = ()
  guidance: tuple[tuple[str, float], ...] = ()

  def __post_init__(self):
    object.__setattr__(self, 'suppress', tuple(tuple(level) for level in self.suppress))
    object.__setattr__(self, 'guidance', tuple((str(group), scale) for group, scale in self.guidance))
    if not 0 <= self.temperature < float('inf'):
      raise errors.ConfigError(f'temperature {self.temperature} is not a number from 0 up')
    if not isinstance(self.top_k, int) or self.top_k < 0:
      raise errors.ConfigError(f'top_k {self.top_k} is not a whole number from 0 up')
    if not 0 < self.top_p <= 1:
      raise errors.ConfigError(f'top_p {self.top_p} is not in (0, 1]')
    if not 0 <= self.overlap < 1:
      raise errors.ConfigError(f'overlap {self.overlap} is not in [0, 1)')
    for group, scale in self.guidance:
      if not 0 <= scale <= 100:
        raise errors.ConfigError(f'guidance {group}={scale} is not a number from 0 to 100')
    if len(dict(self.guidance)) < len(self.guidance):
      raise errors.ConfigError(f'guidance {self.guidance} names a group twice')

  def knobs(self) -> 'Knobs':
    """The numbers that a compiled loop takes as arguments: changing them compiles nothing."""
    return Knobs(np.float32(self.temperature), np.int32(self.top_k), np.float32(self.top_p))

  def banned(self, depth: int, codes: int) -> Bool[np.ndarray, 'depth codes'] | None:
    """What `suppress` means as a mask; None where nothing is suppressed."""
    if not any(self.suppress):
      return None
    # A level that nothing is said of has nothing suppressed.
    levels = (*self.suppress, *[()] * depth)[:depth]
    return np.asarray([np.isin(np.arange(codes), level) for level in levels])

  def candidates(self, codes: int) -> int:
    """Tokens of a vocabulary that have to be ranked: 0 where nothing is restricted.

    A power of two for top-k, so that few programs serve all values of it.
    """
    if self.temperature == 0 or (not self.top_k and self.top_p == 1):
      return 0
    return min(codes, 1 << (self.top_k - 1).bit_length()) if self.top_k else codes


class Knobs(NamedTuple):
  """Numbers of a `Sampling`, as arrays."""

  temperature: Float[Array, ''] | np.float32
  top_k: Int[Array, ''] | np.int32
  top_p: Float[Array, ''] | np.float32
