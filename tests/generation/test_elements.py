"""Elements that are encoded as they are asked for."""

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.generation.elements import Elements


def blocks(taken):
  for first in (0, 3, 6):
    taken.append(first)
    yield np.arange(first, first + 3)[:, None]


def test_no_more_is_encoded_than_is_asked_for():
  taken: list[int] = []
  elements = Elements(blocks(taken))
  assert taken == [0] and len(elements) == 3
  np.testing.assert_array_equal(elements.read(1, 3)[:, 0], [1, 2])
  assert taken == [0]
  np.testing.assert_array_equal(elements.read(2, 4)[:, 0], [2, 3])
  assert taken == [0, 3] and len(elements) == 6
  assert elements.more() and not elements.more() and len(elements) == 9
  np.testing.assert_array_equal(elements.read(8, 20)[:, 0], [8])


def test_all_are_those_of_every_block():
  np.testing.assert_array_equal(Elements(blocks([])).all()[:, 0], range(9))


def test_nothing_at_all_is_refused():
  with pytest.raises(errors.MediaError, match='too short'):
    Elements([])
