"""The compiled decode loop of one stage: prefill, then one step after the other, on the device."""

import concurrent.futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jaxtyping import Array, Bool, Float, Int

from v2meow_jax import linen, programs, stages, workers
from v2meow_jax.generation import draw, guidance
from v2meow_jax.models import cache as cache_lib
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.sampling import Knobs

SHORTEST_ROOM = 256  # elements, below which two loops are not worth the compiling
ROWS_A_THREAD = 16  # of fewer, products take almost as long: they read the weights all the same


def generate(
  model: StageModel,
  params,
  batch: dict,
  known: Int[Array, 'rows frames depth'],
  counts: Int[Array, ' rows'],
  keys: Array,
  stop: Int[Array, ''] | int,
  knobs: Knobs,
  banned: Bool[Array, 'depth codes'] | None,
  dropped: Bool[Array, 'branches conditions'],
  weights: Float[Array, ' branches'],
  *,
  prefilled: int = 0,
  candidates: int = 0,
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
    candidates: tokens that top-k and top-p look at; see `Sampling.candidates`.

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
  rooms = capacities(stage.prefix_length + whole + 1, stage.prefix_length + stage.steps)
  logits, cache = linen.call(
    model, params, rows, repeat(given[:, :whole]), rooms[0], left_out, method='prefill'
  )

  def sample(step, logits):
    logits = guidance.combine(logits, weights)
    if banned is not None:
      logits = jnp.where(banned[jnp.asarray(stages.levels_of(target, step))], -jnp.inf, logits)
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    drawn = draw.draw(step_keys, logits, knobs, candidates)
    seen = jax.lax.dynamic_index_in_dim(marks, step, 1, keepdims=False)
    return jnp.where(seen, jax.lax.dynamic_index_in_dim(given, step, 1, keepdims=False), drawn)

  def advance(step, carry):
    logits, steps, cache = carry
    tokens = sample(step, logits)
    steps = jax.lax.dynamic_update_index_in_dim(steps, tokens, step, 1)
    logits, cache = linen.call(model, params, rows, repeat(tokens), step + 1, cache, method='decode_step')
    return logits, steps, cache

  # The last step's tokens are drawn, but nothing is computed from them.
  last, carry, step = beyond - 1, (logits, given, cache), jnp.int32(whole)
  for room in rooms:
    carry = (*carry[:2], cache_lib.grow(carry[2], room))
    end = jnp.minimum(last, room - stage.prefix_length - 1)  # step n reads element n of the sequence
    carry = jax.lax.fori_loop(step, end, advance, carry)
    step = jnp.maximum(step, end)
  logits, steps, _ = carry
  steps = jax.lax.dynamic_update_index_in_dim(steps, sample(last, logits), last, 1)
  return stages.from_steps(target, steps)


def capacities(start: int, longest: int) -> list[int]:
  """Rooms of the cache, one after the other, from `start` elements to `longest`.

  Attention costs what the room is, not what is in it; every room is a loop of its own to compile.
  """
  rooms = [longest]
  while rooms[0] > max(SHORTEST_ROOM, 2 * start):
    rooms.insert(0, -(-rooms[0] // 2))
  return rooms


STATIC = ('model', 'prefilled', 'candidates')
compiled = programs.Kept(generate, STATIC)


def generate_here(
  model: StageModel, params, batch: dict, known: Array | np.ndarray, counts, keys, *shared, **settings: Any
) -> Int[Array, 'rows frames depth']:
  """`generate`, compiled, where JAX's arrays are by default.

  On CPUs XLA gives attention and most of drawing to one core: there many rows go in parts, side by side.
  """
  most, rows = min(len(known) // ROWS_A_THREAD, workers.cores()), (batch, known, counts, keys)
  parts = max((parts for parts in range(2, most + 1) if len(known) % parts == 0), default=1)
  if parts == 1 or not _on_threads((params, rows, shared)):
    return compiled(model, params, *rows, *shared, **settings)
  size = len(known) // parts

  def run(part: int) -> np.ndarray:
    mine = jax.tree.map(lambda leaf: leaf[part * size : (part + 1) * size], rows)
    return np.asarray(compiled(model, params, *mine, *shared, **settings))

  with concurrent.futures.ThreadPoolExecutor(parts) as pool:
    return jnp.asarray(np.concatenate(list(pool.map(run, range(parts)))))


def _on_threads(given: Any) -> bool:
  """Whether other threads of this process can compute of these arrays what this one would."""
  traced = any(isinstance(leaf, core.Tracer) for leaf in jax.tree.leaves(given))
  return programs.on_one_cpu() and not traced and programs.settings_are_shared()
