"""The law of scaling, fitted to losses that were made of one."""

import itertools

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.sweeps import scaling


def test_a_law_is_found_again_from_its_losses():
  law = scaling.Law(1.7, 400.0, 410.0, 0.34, 0.28)
  grid = list(itertools.product((1e6, 4e6, 2e7, 1e8), (1e7, 1e8, 1e9, 1e10)))
  sizes, tokens = np.transpose(grid)
  found = scaling.fit(sizes, tokens, law(sizes, tokens))
  assert found.exponents == pytest.approx(law.exponents, rel=0.01)
  assert found.floor == pytest.approx(1.7, rel=0.01)
  np.testing.assert_allclose(found(sizes, tokens), law(sizes, tokens), rtol=1e-3)


def test_the_best_size_for_a_budget_is_the_best_of_all_sizes():
  law = scaling.Law(1.7, 400.0, 410.0, 0.34, 0.28)
  for compute in (1e15, 1e18, 1e21):
    size = law.best_size(compute)
    tried = size * np.linspace(0.5, 2, 301)
    losses = law(tried, compute / (6 * tried))
    assert tried[np.argmin(losses)] == pytest.approx(size, rel=0.01)


def test_too_few_runs_are_refused():
  with pytest.raises(errors.ConfigError, match='at least 5'):
    scaling.fit(np.ones(4), np.ones(4), np.ones(4))
