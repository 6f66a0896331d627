"""The compiled decode loop of one stage: prefill, then one step after the other, on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from v2meow_jax import linen, stages
from v2meow_jax.generation import guidance
from v2meow_jax.generation import sampling as sampling_lib
from v2meow_jax.models import transformer
from v2meow_jax.models.stage_model import StageModel


def generate(
  model: StageModel,
  params,
  batch: dict,
  known: Int[Array, 'rows frames depth'],
  counts: Int[Array, ' rows'],
  keys: Array,
  stop: Int[Array, ''] | int,
  knobs: sampling_lib.Knobs,
  banned: Bool[Array, 'depth codes'] | None,
  dropped: Bool[Array, 'branches conditions'],
  weights: Float[Array, ' branches'],
  *,
  prefilled: int = 0,
  restricted: bool = True,
) -> Int[Array, 'rows frames depth']:
  """Tokens of one crop a row.

  Everything but the shapes and what follows the `*` is an argument of the compiled program, so that other
  knobs, scales or lengths compile nothing.

  Args:
    model: the stage's network.
    params: its parameters.
    batch: conditions, and the target's `NAME/offset`.
    known: frames of the crop that are there already; those from `counts` on are ignored.
    counts: how many are, at least `prefilled` each.
    keys: [rows] random keys; a step's key is folded from the row's and the step's number.
    stop: frames wanted; those from there on are undefined.
    knobs, banned: how tokens are drawn; see `sampling`.
    dropped, weights: branches of the guidance; see `guidance`.
    prefilled: known frames that are read at once; the rest of the known ones are fed step by step.
    restricted: whether top-k and top-p are looked at.

  Returns:
    The crop's frames, the known ones among them.
  """
  stage, branches = model.stage, dropped.shape[0]
  target = stage.target
  given, _ = stages.to_steps(target, known)
  # Delaying leaves steps of which only some levels are known.
  marked = jnp.arange(stage.frames)[None, :, None] < counts[:, None, None]
  marks, _ = stages.to_steps(target, jnp.broadcast_to(marked, known.shape))
  whole = prefilled * target.depth if target.pattern == 'flatten' else prefilled
  beyond = stop * target.depth if target.pattern == 'flatten' else stop + target.depth - 1

  def repeat(x):
    return jnp.tile(x, (branches, *[1] * (x.ndim - 1))) if branches > 1 else x

  rows = jax.tree.map(repeat, batch)
  left_out = jnp.repeat(dropped, known.shape[0], 0)
  capacity = stage.prefix_length + stage.steps
  logits, cache = linen.call(
    model, params, rows, repeat(given[:, :whole]), capacity, left_out, method='prefill'
  )

  def sample(step, logits):
    logits = guidance.combine(logits, weights)
    if banned is not None:
      logits = jnp.where(banned[jnp.asarray(stages.levels_of(target, step))], -jnp.inf, logits)
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    drawn = sampling_lib.draw(step_keys, logits, knobs, restricted)
    seen = jax.lax.dynamic_index_in_dim(marks, step, 1, keepdims=False)
    return jnp.where(seen, jax.lax.dynamic_index_in_dim(given, step, 1, keepdims=False), drawn)

  def advance(step, carry):
    logits, steps, cache = carry
    tokens = sample(step, logits)
    steps = jax.lax.dynamic_update_index_in_dim(steps, tokens, step, 1)
    logits, new = linen.call(model, params, rows, repeat(tokens), step + 1, cache, method='decode_step')
    return logits, steps, transformer.write(cache, new, stage.prefix_length + step + 1)

  # The last step's tokens are drawn, but nothing is computed from them.
  logits, steps, _ = jax.lax.fori_loop(whole, beyond - 1, advance, (logits, given, cache))
  steps = jax.lax.dynamic_update_index_in_dim(steps, sample(beyond - 1, logits), beyond - 1, 1)
  return stages.from_steps(target, steps)


STATIC = ('model', 'prefilled', 'restricted')
generate_here = functools.partial(jax.jit, static_argnames=STATIC)(generate)


def simple(
  model: StageModel, params, batch: dict, known: np.ndarray, keys: Array, sampling: sampling_lib.Sampling
) -> np.ndarray:
  """Tokens of a whole crop that begins with `known` [rows, n, depth], without guidance."""
  stage, count = model.stage, known.shape[1]
  if count == stage.frames:
    return np.asarray(known)
  filled = np.pad(known, ((0, 0), (0, stage.frames - count), (0, 0)))
  tokens = generate_here(
    model, params, batch, filled, np.full(len(known), count), keys, stage.frames, sampling.knobs(),
    sampling.banned(stage.target.depth, stage.target.stream.codes),
    np.zeros((1, len(stage.conditions)), bool), np.ones(1, np.float32),
    prefilled=count, restricted=sampling.restricted,
  )  # fmt: skip
  return np.asarray(tokens)
