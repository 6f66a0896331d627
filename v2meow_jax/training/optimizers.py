"""Optimisers and learning-rate schedules, by gin."""

import itertools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import gin
from v2meow_jax import errors, partitioning


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


class Scheduled(optax.GradientTransformation):
  """An optimiser that knows its learning rate: a number, or a function of the updates made."""

  learning_rate: optax.ScalarOrSchedule = 0.0


def _clipped(
  clip_norm: float, optimizer: optax.GradientTransformation, learning_rate: optax.ScalarOrSchedule
) -> Scheduled:
  """The optimiser after clipping by the global norm; 0: none."""
  whole = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer) if clip_norm else optimizer
  made = Scheduled(whole.init, whole.update)
  made.learning_rate = learning_rate
  return made


def rate_metric(optimizer: optax.GradientTransformation, step: jax.Array) -> dict[str, jax.Array]:
  """`learning_rate` of the update after `step` of them; nothing of an optimiser that does not know it."""
  if not isinstance(optimizer, Scheduled):
    return {}
  rate = optimizer.learning_rate
  return {'learning_rate': jnp.asarray(rate(step) if callable(rate) else rate)}


@gin.register
def adamw(
  learning_rate: optax.ScalarOrSchedule = 1e-4,
  b1: float = 0.9,
  b2: float = 0.95,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm (0: none); decays matrices only."""
  optimizer = optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay, mask=_matrices)
  return _clipped(clip_norm, optimizer, learning_rate)


@gin.register
def adafactor(
  learning_rate: optax.ScalarOrSchedule = 1e-3,
  decay_rate: float = 0.8,
  weight_decay: float = 0.0,
  clip_norm: float = 0.0,
  min_dim_size_to_factor: int = 128,
) -> optax.GradientTransformation:
  """Adafactor (arXiv 1804.04235) with factored second moments and no first: a state of a few megabytes.

  Updates are scaled by a parameter's size, so learning rates are T5's, not Adam's. Layers that are stacked
  in one array, and the levels of a table, are each a parameter of their own. Decay follows the schedule: it
  is multiplied by the learning rate, as AdamW's is.

  Args:
    learning_rate: of updates relative to a parameter's size.
    decay_rate: exponent of the second moments' decay, 1 - step^-decay_rate.
    weight_decay: times the learning rate; matrices only.
    clip_norm: of the gradient's global norm; 0: none.
    min_dim_size_to_factor: second moments are factored where two dimensions are at least this size.
  """
  if min_dim_size_to_factor < 2:
    raise errors.ConfigError(f'adafactor: min_dim_size_to_factor {min_dim_size_to_factor} is below 2')
  # Optax's own chain of that name, but for the decay, which there knows nothing of the learning rate.
  parts = [
    _each_array(
      optax.scale_by_factored_rms(decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor),
      optax.clip_by_block_rms(1.0),
      optax.scale_by_param_block_rms(),
    )
  ]
  if weight_decay:
    parts.append(optax.add_decayed_weights(weight_decay, _matrices))
  optimizer = optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))
  return _clipped(clip_norm, optimizer, learning_rate)


def _is_box(leaf: Any) -> bool:
  return isinstance(leaf, nn.LogicallyPartitioned)


def _each_array(
  factored: optax.GradientTransformation, *stateless: optax.GradientTransformation
) -> optax.GradientTransformation:
  """A factored optimiser that takes every array of a stacked one by itself.

  How many leading dimensions are stacks is read from the logical axes when the state is made, and from then
  on from the state: for what is not kept of an array there is one number, so its shape is (*stacks, 1).
  """
  nothing = optax.EmptyState()

  def init(params):
    def of(leaf):
      value, axes = (leaf.value, leaf.names) if _is_box(leaf) else (leaf, ())
      stacks = len(list(itertools.takewhile(lambda axis: axis in partitioning.STACKED_AXES, axes)))
      made = _over(lambda x: cast(optax.FactoredState, factored.init(x))[1:], stacks)(value)
      return tuple(leaf.replace(value=x) if _is_box(leaf) else x for x in made)

    leaves, structure = jax.tree.flatten(params, is_leaf=_is_box)
    kept = zip(*map(of, leaves), strict=True) if leaves else ((), (), ())
    count = jnp.zeros((), jnp.int32)
    return optax.FactoredState(count, *(jax.tree.unflatten(structure, part) for part in kept))

  def update(updates, state, params=None):
    def of(gradient, row, column, full, param):
      def one(gradient, row, column, full, param):
        state_of = optax.FactoredState(state.count, row, column, full)
        gradient, kept = factored.update(gradient, state_of, param)
        new = cast(optax.FactoredState, kept)
        for part in stateless:
          gradient, _ = part.update(gradient, nothing, param)
        return gradient, new.v_row, new.v_col, new.v

      # Either the whole second moment is kept or its factors.
      stacks = (row if full.shape == param.shape else full).ndim - 1
      return _over(one, stacks)(gradient, row, column, full, param)

    leaves, structure = jax.tree.flatten(updates)
    rest = [structure.flatten_up_to(tree) for tree in (state.v_row, state.v_col, state.v, params)]
    made = list(zip(*map(of, leaves, *rest), strict=True)) if leaves else ((), (), (), ())
    updates, *kept = (jax.tree.unflatten(structure, part) for part in made)
    return updates, optax.FactoredState(optax.safe_increment(state.count), *kept)

  return optax.GradientTransformation(init, update)


def _over(function: Callable, stacks: int) -> Callable:
  """`function` mapped over so many leading dimensions of all its arguments."""
  for _ in range(stacks):
    function = jax.vmap(function)
  return function
