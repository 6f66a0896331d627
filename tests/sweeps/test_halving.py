"""Successive halving: how long the rungs are, and who goes on."""

import math

import pytest

from v2meow_jax import errors
from v2meow_jax.sweeps import halving
from v2meow_jax.sweeps.sweep import Halving


def test_rungs_end_at_the_published_fractions():
  assert halving.rungs(Halving(3, 2), 900) == [100, 300]
  assert halving.rungs(Halving(2, 1), 5) == [2]
  with pytest.raises(errors.ConfigError, match='too few'):
    halving.rungs(Halving(10, 3), 100)


def test_the_best_and_the_baseline_go_on():
  scores = {'base': 9.0, 'a': 1.0, 'b': 3.0, 'c': math.nan, 'd': 2.0, 'e': 4.0}
  assert halving.survivors(scores, 3, 'base', more=False) == ['base', 'a', 'd']
  assert halving.survivors(scores, 3, 'base', more=True) == ['base', 'e']
  assert halving.survivors(scores, 2, 'a', more=False) == ['a', 'b', 'd']
  assert halving.survivors({'c': math.nan, 'a': 1.0}, 2, '', more=False) == ['a']
