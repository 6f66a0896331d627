"""Optimisers and learning-rate schedules, by gin."""

import jax
import jax.numpy as jnp
import optax

import gin
from v2meow_jax import errors


def _check_warmup(name: str, warmup_steps: int, total_steps: int) -> None:
  if not 0 <= warmup_steps < total_steps:
    raise errors.ConfigError(f'{name}: warmup_steps {warmup_steps} is not below total_steps {total_steps}')


@gin.register
def warmup_cosine(
  peak: float = 1e-3, warmup_steps: int = 100, total_steps: int = 1000, final: float = 0.05
) -> optax.Schedule:
  """Linear warm-up to `peak`, then a cosine down to `final` x `peak` at `total_steps`."""
  _check_warmup('warmup_cosine', warmup_steps, total_steps)
  return optax.warmup_cosine_decay_schedule(0.0, peak, max(warmup_steps, 1), total_steps, peak * final)


@gin.register
def warmup_rsqrt(peak: float = 1e-3, warmup_steps: int = 10000) -> optax.Schedule:
  """Linear warm-up to `peak`, then peak x sqrt(warmup_steps / step): T5's schedule."""
  if warmup_steps < 1:
    raise errors.ConfigError(f'warmup_rsqrt: warmup_steps {warmup_steps} is not a positive number')

  def schedule(count):
    step = jnp.maximum(count, 1)
    return peak * jnp.minimum(count / warmup_steps, jnp.sqrt(warmup_steps / step))

  return schedule


@gin.register
def warmup_constant(peak: float = 1e-3, warmup_steps: int = 100) -> optax.Schedule:
  """Linear warm-up to `peak`, which then stays."""
  return optax.linear_schedule(0.0, peak, max(warmup_steps, 1))


def _matrices(params):
  """True for what weight decay is for: no biases, scales or single vectors, stacked over layers or not.

  T5's table of relative positions is a bias by head and distance, though it has two dimensions.
  """

  def is_matrix(path, leaf):
    names = [getattr(key, 'key', None) for key in path]
    return leaf.ndim - ('layers' in names) > 1 and 'relative_bias' not in names

  return jax.tree_util.tree_map_with_path(is_matrix, params)


def _clipped(clip_norm: float, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
  return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer) if clip_norm else optimizer


@gin.register
def adamw(
  learning_rate: optax.ScalarOrSchedule = 1e-4,
  b1: float = 0.9,
  b2: float = 0.95,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm (0: none); decays matrices only."""
  return _clipped(clip_norm, optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay, mask=_matrices))


@gin.register
def adafactor(
  learning_rate: optax.ScalarOrSchedule = 1e-3,
  decay_rate: float = 0.8,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
) -> optax.GradientTransformation:
  """Adafactor (arXiv 1804.04235) with factored second moments and no first: a state of a few megabytes.

  Updates are scaled by a parameter's size, so learning rates are T5's, not Adam's. A parameter's size
  and update are taken over the whole array, so stacked layers share them. Decay follows the schedule: it is
  multiplied by the learning rate, as AdamW's is.
  """
  # Optax's own chain of that name, but for the decay, which there knows nothing of the learning rate.
  parts = [
    optax.scale_by_factored_rms(decay_rate=decay_rate),
    optax.clip_by_block_rms(1.0),
    optax.scale_by_param_block_rms(),
  ]
  if weight_decay:
    parts.append(optax.add_decayed_weights(weight_decay, _matrices))
  return _clipped(clip_norm, optax.chain(*parts, optax.scale_by_learning_rate(learning_rate)))
