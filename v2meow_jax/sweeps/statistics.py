"""Means over seeds with their intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A mean.

  Attributes:
    value: the mean.
    low, high: edges of its interval; None where there is nothing to judge it by.
    count: of the values.
  """

  value: float
  low: float | None
  high: float | None
  count: int

  @property
  def apart(self) -> bool:
    """Of a difference: whether its interval leaves out zero."""
    return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def over_seeds(values: Sequence[float]) -> Estimate:
  """The mean with Student's t interval, mean +- t(n - 1) s / sqrt(n).

  Seeds are few, and of three values a bootstrap's interval is far too narrow: its resamples hold no value
  beyond the three. Paired differences by seed are values as well.
  """
  found = np.asarray(values, np.float64)
  mean, count = float(found.mean()), len(found)
  if count < 2 or not np.isfinite(found).all():
    return Estimate(mean, None, None, count)
  half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * found.std(ddof=1) / math.sqrt(count))
  return Estimate(mean, mean - half, mean + half, count)
