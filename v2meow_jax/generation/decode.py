"""The compiled decode loop of one stage: prefill, then one step after the other, on the device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from v2meow_jax import linen, stages
from v2meow_jax.generation import sampling as sampling_lib
from v2meow_jax.models import transformer
from v2meow_jax.models.stage_model import StageModel


@functools.partial(jax.jit, static_argnames=('model', 'sampling'))
def generate(
  model: StageModel,
  params,
  batch: dict,
  known: Int[Array, 'batch n depth'],
  keys: Array,
  sampling: sampling_lib.Sampling,
) -> Int[Array, 'batch frames depth']:
  """Tokens of a whole crop.

  Args:
    model: the stage's network.
    params: its parameters.
    batch: conditions, and the target's `NAME/offset`.
    known: the first n frames, which are kept as they are.
    keys: [batch] random keys; a step's key is folded from it and the step's number.
    sampling: how tokens are drawn.

  Returns:
    The crop's frames, the known ones among them.
  """
  stage = model.stage
  target, total = stage.target, stage.steps
  count = known.shape[1]
  if count == stage.frames:
    return known
  filled = jnp.pad(known, ((0, 0), (0, stage.frames - count), (0, 0)))
  given, _ = stages.to_steps(target, filled)
  # Delaying leaves steps of which only some levels are known.
  marks, _ = stages.to_steps(
    target, (np.arange(stage.frames) < count)[:, None] * np.ones((1, target.depth), np.int32)
  )
  marks = jnp.asarray(marks, bool)
  whole = count * target.depth if target.pattern == 'flatten' else count

  logits, cache = linen.call(
    model, params, batch, given[:, :whole], stage.prefix_length + total, method='prefill'
  )

  def sample(step, logits):
    logits = sampling_lib.suppressed(logits, jnp.asarray(stages.levels_of(target, step)), sampling)
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    drawn = sampling_lib.draw(step_keys, logits, sampling)
    return jnp.where(marks[step], given[:, step], drawn)

  def advance(step, carry):
    logits, steps, cache = carry
    tokens = sample(step, logits)
    steps = jax.lax.dynamic_update_index_in_dim(steps, tokens, step, 1)
    logits, new = linen.call(model, params, batch, tokens, step + 1, cache, method='decode_step')
    return logits, steps, transformer.write(cache, new, stage.prefix_length + step + 1)

  logits, steps, _ = jax.lax.fori_loop(whole, total - 1, advance, (logits, given, cache))
  steps = steps.at[:, total - 1].set(sample(total - 1, logits))
  return stages.from_steps(target, steps)
