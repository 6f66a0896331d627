"""Optimisers and learning-rate schedules, by gin."""

import jax
import optax

import gin
from v2meow_jax import errors


@gin.register
def warmup_cosine(
  peak: float = 1e-3, warmup_steps: int = 100, total_steps: int = 1000, final: float = 0.05
) -> optax.Schedule:
  """Linear warm-up to `peak`, then a cosine down to `final` x `peak` at `total_steps`."""
  if warmup_steps >= total_steps:
    raise errors.ConfigError(
      f'warmup_cosine: warmup_steps {warmup_steps} is not below total_steps {total_steps}'
    )
  return optax.warmup_cosine_decay_schedule(0.0, peak, max(warmup_steps, 1), total_steps, peak * final)


@gin.register
def adamw(
  learning_rate: optax.ScalarOrSchedule = 1e-4,
  b1: float = 0.9,
  b2: float = 0.95,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm; decays matrices only (no biases, scales or single vectors)."""
  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.adamw(
      learning_rate,
      b1,
      b2,
      weight_decay=weight_decay,
      mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    ),
  )
