"""Intervals against SciPy's bootstrap, closed forms, and their coverage of a known mean."""

import math

import numpy as np
import pytest
import scipy.stats

from v2meow_jax.evaluation import bootstrap


def test_the_interval_of_a_mean_is_scipys():
  values = np.random.default_rng(0).exponential(size=40)
  found = bootstrap.mean(values)
  wanted = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, method='percentile', rng=1)
  low, high = wanted.confidence_interval
  assert found.value == pytest.approx(values.mean()) and found.count == 40
  # Both draw at random: their edges differ by about a thirtieth of the interval.
  assert found.interval == pytest.approx((low, high), abs=0.1 * (high - low))


def test_weights_are_of_the_mean_and_what_is_not_finite_is_left_out():
  values, weights = np.array([1.0, 2.0, np.nan, 4.0]), np.array([1.0, 2.0, 5.0, 3.0])
  found = bootstrap.mean(values, weights=weights)
  assert found.value == pytest.approx((1 + 4 + 12) / 6) and found.count == 3
  nothing = bootstrap.mean(np.array([np.nan]))
  assert math.isnan(nothing.value) and nothing.count == 0
  assert nothing.told() == {'value': None, 'interval': [None, None], 'count': 0}
  assert bootstrap.mean(np.array([3.0])).told()['interval'] == [None, None]


def test_repeating_what_was_measured_on_a_track_makes_nothing_surer():
  rng = np.random.default_rng(0)
  tracks = rng.standard_normal(12)
  one = bootstrap.mean(tracks)
  crops = bootstrap.mean(np.repeat(tracks, 50), groups=np.repeat(np.arange(12), 50))
  naive = bootstrap.mean(np.repeat(tracks, 50))
  assert crops.count == 12 and crops.interval == pytest.approx(one.interval)
  assert np.diff(naive.interval) < 0.2 * np.diff(crops.interval)


def test_intervals_hold_the_mean_about_as_often_as_they_say():
  rng = np.random.default_rng(1)
  held = [
    low < 0 < high for low, high in (bootstrap.mean(rng.standard_normal(30)).interval for _ in range(200))
  ]
  # The percentile interval of 30 values is known to be a little narrow; three errors are 0.05.
  assert 0.88 < np.mean(held) < 0.98


def test_the_jackknife_of_a_mean_is_its_standard_error():
  values = np.random.default_rng(2).standard_normal(20)
  found = bootstrap.jackknife(lambda rows: float(values[rows].mean()), range(20))
  reach = scipy.stats.t.ppf(0.975, 19) * scipy.stats.sem(values)
  assert found.value == pytest.approx(values.mean()) and found.count == 20
  assert found.interval == pytest.approx((values.mean() - reach, values.mean() + reach))
  assert math.isnan(bootstrap.jackknife(lambda rows: 1.0, [0, 0, 1, 1]).interval[0])


def test_the_number_needed_is_that_of_the_power_of_a_t_test():
  differences = np.random.default_rng(3).standard_normal(50) + 0.3
  effect = abs(differences.mean()) / differences.std(ddof=1)
  count = bootstrap.needed(differences)
  edge = scipy.stats.t.ppf(0.975, count - 1)
  power = 1 - scipy.stats.nct.cdf(edge, count - 1, effect * math.sqrt(count))
  assert power == pytest.approx(0.8, abs=0.02)
  hardly = bootstrap.needed(np.array([1.0, -1.0, 1e-16]))  # more than an integer of 64 bits holds
  assert isinstance(hardly, float) and hardly > 2.0**64
  assert bootstrap.needed(np.zeros(4)) == math.inf and math.isnan(bootstrap.needed(np.ones(1)))
