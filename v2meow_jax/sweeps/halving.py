"""Successive halving: which combinations go on after a rung."""

import fnmatch
import math
from collections.abc import Mapping

from v2meow_jax import errors
from v2meow_jax.sweeps.sweep import Halving


def rungs(halving: Halving, total_steps: int) -> list[int]:
  """Steps at which a rung ends, ascending, the end of the run not among them.

  Raises:
    errors.ConfigError: the first would end before a step.
  """
  found = [total_steps // halving.factor**k for k in range(halving.rungs, 0, -1)]
  if found[0] < 1 or len(set(found)) < len(found):
    raise errors.ConfigError(
      f'Sweep.halving: {total_steps} steps are too few for {halving.rungs} rungs of factor {halving.factor}'
    )
  return found


def survivors(scores: Mapping[str, float], factor: int, baseline: str, more: bool) -> list[str]:
  """Names that go on: the best 1/factor, rounded up, and the baseline.

  Args:
    scores: combination -> its mean over seeds; NaN is worse than anything.
    factor: of the halving.
    baseline: goes on in any case, for others are compared with it.
    more: whether more is better.
  """

  def rank(name: str) -> tuple[bool, float]:
    value = scores[name]
    return (not math.isfinite(value), -value if more else value)

  kept = sorted(scores, key=rank)[: max(1, math.ceil(len(scores) / factor))]
  return [name for name in scores if name in kept or name == baseline]


def chosen_metric(halving: Halving, metrics: Mapping[str, bool]) -> str | None:
  """The metric that decides; None where there is none yet."""
  return next((name for name in metrics if fnmatch.fnmatchcase(name, halving.metric or '*')), None)
