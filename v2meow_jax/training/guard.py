"""Bad steps: told apart on the device, undone, and counted."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import gin
from v2meow_jax import errors

ALARM = 'alarm/'


@gin.register
@dataclasses.dataclass(frozen=True)
class Guard:
  """A step changes nothing if its loss or gradient is not finite, its loss explodes, or it raises an alarm.

  An alarm is a metric `alarm/NAME` other than 0: what is trained knows best when it is going wrong.

  After `patience` such steps in a row the run goes back to its last checkpoint and on with the data that
  comes next; after `rewinds` times it stops and keeps the batch for inspection.

  Attributes:
    explosion: multiple of the loss's running mean beyond which a step is bad; 0: only what is not finite.
    memory: steps of the running mean; as many must have been seen before an explosion is called one.
    patience: bad steps in a row.
    rewinds: times that a run goes back.
  """

  explosion: float = 10.0
  memory: int = 100
  patience: int = 5
  rewinds: int = 2

  def __post_init__(self):
    if self.memory < 1 or self.patience < 1 or self.rewinds < 0 or self.explosion < 0:
      raise errors.ConfigError(
        'Guard: memory and patience must be at least 1, rewinds and explosion not negative'
      )

  def init(self) -> dict[str, jax.Array]:
    """The guard's own state, saved with the run's."""
    return {'mean': jnp.float32(0), 'seen': jnp.int32(0), 'bad': jnp.int32(0)}

  def step(self, function: Callable, state: dict, batch: Any, rng: jax.Array) -> tuple[dict, dict]:
    """`function(state, batch, rng)`, undone where it is bad.

    Args:
      function: a trainable's step.
      state: `trainable`, the function's state, and `guard`.
      batch, rng: the function's.

    Returns:
      The new state, and the metrics with `skipped` (0 or 1) and `bad` (such steps in a row) added.
    """
    old, guard = state['trainable'], state['guard']
    new, metrics = function(old, batch, rng)
    loss = metrics['loss'].astype(jnp.float32)
    good = jnp.isfinite(loss) & jnp.isfinite(metrics.get('grad_norm', loss))
    for name, value in metrics.items():
      if name.startswith(ALARM):
        good &= value == 0
    if self.explosion:
      good &= (guard['seen'] < self.memory) | (loss < self.explosion * guard['mean'])
    new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
    # A plain mean at first, then a moving one.
    share = 1 / jnp.minimum(guard['seen'] + 1, self.memory)
    guard = {
      'mean': jnp.where(good, guard['mean'] + share * (loss - guard['mean']), guard['mean']),
      'seen': guard['seen'] + good,
      'bad': jnp.where(good, 0, guard['bad'] + 1),
    }
    metrics |= {'skipped': 1.0 - good, 'bad': guard['bad']}
    return {'trainable': new, 'guard': guard}, metrics
