"""A condition's elements, encoded no further than they are asked for."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Shaped

from v2meow_jax import errors


class Elements:
  """Elements of a stream that come in blocks.

  Args:
    blocks: [n, width] each; taken one by one as reading goes on.

  Raises:
    errors.MediaError: there is none.
  """

  def __init__(self, blocks: Iterable[Shaped[np.ndarray, 'n width']]):
    self._blocks = iter(blocks)
    made = next(self._blocks, None)
    if made is None:
      raise errors.MediaError('what is to be encoded is too short: it holds no element')
    self._made = made

  def __len__(self) -> int:
    """How many are there."""
    return len(self._made)

  def more(self) -> bool:
    """Encodes another block; False where there is none."""
    block = next(self._blocks, None)
    if block is not None:
      self._made = np.concatenate([self._made, block])
    return block is not None

  def read(self, first: int, stop: int) -> Shaped[np.ndarray, 'n width']:
    """Those from `first` to before `stop`; fewer where the stream ends."""
    while stop > len(self._made) and self.more():
      pass
    return self._made[first:stop]

  def all(self) -> Shaped[np.ndarray, 'n width']:
    """Every one."""
    while self.more():
      pass
    return self._made
