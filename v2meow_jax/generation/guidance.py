"""Classifier-free guidance by several conditions, each with a scale of its own, in one batch.

With u the logits without any condition of a group, v with the video's and vt with the style's as well,

    logits = u + s_v (v - u) + s_t (vt - v)

(Ho and Salimans 2022, nested as in Brooks et al. 2023 for two conditions). So each branch has a weight,
the weights sum to one, and branches of weight zero need not be run.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from v2meow_jax import errors
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Condition, Stage

GROUPS = ('video', 'style')  # in the order in which they join


class Branches(NamedTuple):
  """What is run for every row.

  Attributes:
    dropped: conditions that a branch leaves out.
    weights: of the branches' logits.
  """

  dropped: Bool[np.ndarray, 'branches conditions']
  weights: Float[np.ndarray, ' branches']


def group_of(condition: Condition) -> str:
  """The group that a condition belongs to: the first part of its stream's name."""
  return condition.stream.name.partition('/')[0]


def groups_of(stage: Stage) -> list[str]:
  """Groups that the stage could be guided by."""
  return [group for group in GROUPS if any(group_of(c) == group for c in stage.conditions)]


def possible(stage: Stage) -> list[str]:
  """Groups that the stage knows both with and without."""
  return [
    group for group in groups_of(stage) if all(c.dropout for c in stage.conditions if group_of(c) == group)
  ]


def check(stage: Stage, scales: tuple[tuple[str, float], ...]) -> None:
  """Raises `errors.ConfigError` where the stage cannot be guided so: it has to know both with and without."""
  for group, scale in scales:
    members = [c for c in stage.conditions if group_of(c) == group]
    if group not in GROUPS or not members:
      known = ', '.join(groups_of(stage)) or 'none'
      raise errors.ConfigError(
        f'guidance {group}={scale:g}: stage {stage.name!r} has no such conditions ({known})'
      )
    always = [c.stream.name for c in members if not c.dropout]
    if always and scale != 1:
      raise errors.ConfigError(
        f'guidance {group}={scale:g}: stage {stage.name!r} was trained with {", ".join(always)} always '
        'there; only a condition that training dropped at times can be guided by'
      )


def branches(stage: Stage, sampling: Sampling, given: set[str]) -> Branches:
  """The branches to run.

  Args:
    stage: whose conditions are meant.
    sampling: with the scales.
    given: groups that the request has something for; the others are left out by every branch.
  """
  groups = [group for group in groups_of(stage) if group in given]
  scales = [dict(sampling.guidance).get(group, 1.0) for group in groups]
  names = [group_of(condition) for condition in stage.conditions]

  def dropped(present: list[str]) -> list[bool]:
    return [name in GROUPS and name not in present for name in names]

  weights = -np.diff([1.0, *scales, 0.0])
  rows = [(dropped(groups[:n]), weight) for n, weight in enumerate(weights) if weight]
  return Branches(
    np.asarray([row for row, _ in rows], bool).reshape(len(rows), len(names)),
    np.asarray([weight for _, weight in rows], np.float32),
  )


def combine(
  logits: Float[Array, 'rows k codes'], weights: Float[Array, ' branches']
) -> Float[Array, 'b k codes']:
  """The weighted sum of the branches' logits; the rows are those of one branch after the other."""
  if weights.shape[0] == 1:
    return logits
  each = logits.reshape(weights.shape[0], -1, *logits.shape[1:])
  return (each * weights[:, None, None, None]).sum(0)
