"""A condition's elements, encoded no further than they are asked for."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Shaped


class Elements:
  """Elements of a stream that come in blocks.

  Args:
    blocks: [n, width] each, one at least; taken one by one as reading goes on.
  """

  def __init__(self, blocks: Iterable[Shaped[np.ndarray, 'n width']]):
    self._blocks = iter(blocks)
    self._made = next(self._blocks)

  def read(self, first: int, stop: int) -> Shaped[np.ndarray, 'n width']:
    """Those from `first` to before `stop`; fewer where the stream ends."""
    while stop > len(self._made) and (block := next(self._blocks, None)) is not None:
      self._made = np.concatenate([self._made, block])
    return self._made[first:stop]

  def all(self) -> Shaped[np.ndarray, 'n width']:
    """Every one."""
    self._made = np.concatenate([self._made, *self._blocks])
    return self._made
