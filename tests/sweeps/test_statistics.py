"""Intervals over seeds against SciPy's own tests."""

import numpy as np
import pytest
from scipy import stats

from v2meow_jax.sweeps import statistics


@pytest.mark.parametrize('count', [2, 3, 10])
def test_the_interval_is_that_of_a_t_test(count):
  values = np.random.default_rng(count).normal(5, 2, count)
  found = statistics.over_seeds(list(values))
  wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
  assert (found.value, found.low, found.high) == pytest.approx((values.mean(), wanted.low, wanted.high))


def test_paired_differences_are_a_paired_t_test():
  rng = np.random.default_rng(0)
  shared = rng.normal(0, 10, 4)  # what a seed does to both
  one, other = shared + rng.normal(0.0, 0.1, 4), shared + rng.normal(1.0, 0.1, 4)
  found = statistics.over_seeds(list(other - one))
  wanted = stats.ttest_rel(other, one).confidence_interval(0.95)
  assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
  assert found.apart
  assert not stats.ttest_ind(other, one).pvalue < 0.05  # unpaired, the same numbers say nothing


def test_intervals_hold_as_often_as_they_say():
  draws = np.random.default_rng(1).normal(3, 1, (2000, 3))
  held = sum(e.low <= 3 <= e.high for e in map(statistics.over_seeds, draws.tolist()))
  assert held / 2000 == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_one_value_and_what_is_not_finite_have_no_interval():
  assert statistics.over_seeds([2.0]) == statistics.Estimate(2.0, None, None, 1)
  assert statistics.over_seeds([2.0, float('nan')]).low is None
  assert not statistics.over_seeds([2.0]).apart
