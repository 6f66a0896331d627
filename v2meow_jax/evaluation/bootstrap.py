"""Intervals by resampling whole groups (tracks, clips), and what a difference needs to be seen."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

DRAWS = 2000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A figure with what is known of its error.

  Attributes:
    value: of all that was measured.
    interval: (low, high) at 95%; NaN where there are fewer than two groups.
    count: groups that were resampled.
    unit: of the value.
    better: `lower`, `higher`, or empty where neither is.
  """

  value: float
  interval: tuple[float, float]
  count: int
  unit: str = ''
  better: str = ''

  def told(self) -> dict[str, Any]:
    """As reports hold it: JSON values, None for what is not finite."""
    low, high = (_finite(edge) for edge in self.interval)
    about = {'value': _finite(self.value), 'interval': [low, high], 'count': self.count}
    return (
      about | ({'unit': self.unit} if self.unit else {}) | ({'better': self.better} if self.better else {})
    )


def _finite(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None


def mean(
  values: Float[np.ndarray, ' n'],
  groups: Sequence[Hashable] | None = None,
  weights: Float[np.ndarray, ' n'] | None = None,
  *,
  unit: str = '',
  better: str = '',
  seed: int = 0,
) -> Estimate:
  """A weighted mean with a percentile interval, groups being drawn with replacement (Efron 1979).

  What is measured on one track is alike, so that the draw is of tracks and not of what was measured: crops of
  one track counted as independent make intervals too narrow.

  Args:
    values: one a clip or crop; NaN where it could not be measured, which is left out.
    groups: of each, its track; by default each is a group of its own.
    weights: of each in the mean, seconds or tokens; by default all alike.
    unit, better: see `Estimate`.
    seed: of the draws.
  """
  values = np.asarray(values, np.float64)
  weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
  keys = range(len(values)) if groups is None else groups
  there = np.isfinite(values) & (weights > 0)
  if not there.any():
    return Estimate(math.nan, (math.nan, math.nan), 0, unit, better)
  places: dict[Hashable, int] = {}
  index = np.array(
    [places.setdefault(key, len(places)) for key, kept in zip(keys, there, strict=True) if kept]
  )
  count = len(places)
  total = np.bincount(index, values[there] * weights[there], count)
  weight = np.bincount(index, weights[there], count)
  interval = (math.nan, math.nan)
  if count > 1:
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), DRAWS).astype(float)
    interval = _quantiles((drawn @ total) / (drawn @ weight))
  return Estimate(float(total.sum() / weight.sum()), interval, count, unit, better)


def _quantiles(found: np.ndarray) -> tuple[float, float]:
  found = found[np.isfinite(found)]
  if not found.size:
    return math.nan, math.nan
  tail = (1 - LEVEL) / 2
  low, high = np.quantile(found, [tail, 1 - tail])
  return float(low), float(high)


def needed(differences: Float[np.ndarray, ' n'], power: float = 0.8) -> float:
  """Groups with which a paired difference as great as the one found would be seen, rounded up.

  n = ((z_(1 - alpha/2) + z_power) s / d)^2 for a two-sided test at 5% (normal approximation; Cohen 1988): s
  the standard deviation of the differences, d their mean.

  Args:
    differences: one a group, finite.
    power: with which it is to be seen.
  """
  if len(differences) < 2:
    return math.nan
  middle, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
  if middle == 0:
    return math.inf
  reach = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(power)
  return max(2.0, float(np.ceil((reach * deviation / middle) ** 2)))


def jackknife(
  function: Callable[[np.ndarray], float],
  groups: Sequence[Hashable],
  *,
  blocks: int = 20,
  unit: str = '',
  better: str = '',
) -> Estimate:
  """Any statistic of a set, with an interval by leaving out groups (Quenouille 1956, Tukey 1958).

  For distances of sets, which drawing with replacement would bias: a set with members twice is a smaller one.

  Args:
    function: indices of what is kept [n] -> the statistic.
    groups: of each member of the set.
    blocks: parts into which groups are dealt, one left out at a time.
  """
  places: dict[Hashable, int] = {}
  index = np.array([places.setdefault(key, len(places)) for key in groups], int)
  count = len(places)
  value = float(function(np.arange(len(index))))
  parts = min(blocks, count)
  if parts < 3:
    return Estimate(value, (math.nan, math.nan), count, unit, better)
  left = np.array([function(np.flatnonzero(index % parts != part)) for part in range(parts)])
  error = math.sqrt((parts - 1) / parts * float(np.square(left - left.mean()).sum()))
  reach = stats.t.ppf((1 + LEVEL) / 2, parts - 1) * error
  return Estimate(value, (float(value - reach), float(value + reach)), count, unit, better)
