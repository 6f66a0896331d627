"""A stage's network: prefix, embedding of steps, Transformer, and one head a codebook level.

The input at step s is the embedding of step s - 1 (a learned vector at step 0) and what aligned conditions
say of the time of step s; the output is the distribution of step s. Logits are always over one level's
codes, by that level's slice of the head.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from v2meow_jax import linen, products, stages
from v2meow_jax.models import attention, conditioning
from v2meow_jax.models import cache as cache_lib
from v2meow_jax.models.cache import Cache
from v2meow_jax.models.transformer import Transformer, TransformerConfig
from v2meow_jax.partitioning import constrain
from v2meow_jax.stages import Stage


class StageModel(nn.Module):
  """See the module's docstring. `batch` is what `data.batches` describes."""

  stage: Stage
  config: TransformerConfig

  def setup(self):
    stage, width = self.stage, self.config.width
    depth, codes = stage.target.depth, stage.target.stream.codes
    kinds = {'prefix': conditioning.ConditionEncoder, 'aligned': conditioning.AlignedEncoder}
    self.conditions = [kinds[c.placement](c, width, name=conditioning.name_of(c)) for c in stage.conditions]
    self.transformer = Transformer(self.config)
    self.first = linen.parameter(self, 'first', nn.initializers.normal(1.0), ('embed',), (width,))
    self.embedding = linen.parameter(
      self,
      'embedding',
      nn.initializers.normal(stage.step_tokens**-0.5),
      ('levels', 'vocab', 'embed'),
      (depth, codes, width),
    )
    names, shape, axes = ('levels', 'embed', 'vocab'), (depth, width, codes), (1, 2)
    if self.config.transposed:
      names, shape, axes = ('levels', 'vocab', 'embed'), (depth, codes, width), (2, 1)
    init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal', *axes, batch_axis=0)
    self.head = linen.parameter(self, 'head', init, names, shape)

  def prefix(
    self, batch: dict, dropped: Bool[Array, 'b conditions'] | None = None
  ) -> tuple[Float[Array, 'b p width'], Float[Array, 'b p']]:
    """Embeddings and positions of the prefix."""
    parts, places = [], []
    unit = float(self.stage.target.step_rate)
    for i, (condition, encoder) in enumerate(zip(self.stage.conditions, self.conditions, strict=True)):
      if condition.placement != 'prefix':
        continue
      name = condition.stream.name
      values = batch[name]
      parts.append(encoder(values, batch[f'{name}/mask'], None if dropped is None else dropped[:, i]))
      places.append(conditioning.positions(condition, batch[f'{name}/offset'], values.shape[1], unit))
    if not parts:
      size = batch[f'{self.stage.target.stream.name}/offset'].shape[0]
      return jnp.zeros((size, 0, self.config.width)), jnp.zeros((size, 0))
    joined = jnp.concatenate(places, 1)
    if not self.config.time_aligned:
      joined = jnp.broadcast_to(jnp.arange(joined.shape[1], dtype=jnp.float32), joined.shape)
    return jnp.concatenate(parts, 1), joined

  def aligned(
    self, batch: dict, dropped: Bool[Array, 'b conditions'] | None = None
  ) -> Float[Array, 'b steps width'] | None:
    """What aligned conditions add to the input of every step of a crop; None where there are none."""
    stage, total = self.stage, None
    target = stage.target
    steps = np.arange(stage.steps)
    frames = steps // target.depth if target.pattern == 'flatten' else steps
    middles = ((frames + 0.5) / float(target.stream.rate)).astype(np.float32)
    for i, (condition, encoder) in enumerate(zip(stage.conditions, self.conditions, strict=True)):
      if condition.placement != 'aligned':
        continue
      name = condition.stream.name
      start = batch[f'{target.stream.name}/offset'] - batch[f'{name}/offset']
      left_out = None if dropped is None else dropped[:, i]
      added = encoder(batch[name], batch[f'{name}/mask'], left_out, start[:, None] + middles)
      total = added if total is None else total + added
    return None if total is None else constrain(total, 'batch', 'length', 'embed')

  def step_positions(self, batch: dict, steps: Int[Array, ' n']) -> Float[Array, 'b n']:
    """Positions of the inputs at these steps."""
    target = self.stage.target
    offset = batch[f'{target.stream.name}/offset'][:, None]
    if not self.config.time_aligned:
      return self.stage.prefix_length + steps + jnp.zeros_like(offset)
    return offset * float(target.step_rate) + steps

  def embed_steps(
    self, tokens: Int[Array, 'b n k'], valid: Bool[Array, '*b n k'], first_step: Int[Array, ''] | int = 0
  ) -> Float[Array, 'b n width']:
    """Embeddings of steps, the first of which has number `first_step`; gaps of a delay add nothing."""
    if self.stage.target.pattern == 'flatten':
      levels = ((first_step + jnp.arange(tokens.shape[1])) % self.stage.target.depth)[:, None]
    else:
      levels = jnp.arange(self.stage.target.depth)[None, :]
    table = self.embedding
    found = attention.wide(table[levels, tokens]) * valid[..., None]
    # As a sum over an axis CPUs would take many times as long.
    return sum((found[..., k, :] for k in range(1, tokens.shape[-1])), found[..., 0, :]).astype(table.dtype)

  def __call__(
    self,
    batch: dict,
    dropped: Bool[Array, 'b conditions'] | None = None,
    deterministic: bool = True,
    blanked: Bool[Array, 'b n k'] | None = None,
  ) -> Float[Array, 'b frames depth codes']:
    """Teacher-forced float32 logits of every token of the target.

    Args:
      batch: conditions and target.
      dropped: conditions to be left out.
      deterministic: without dropout.
      blanked: tokens of all steps but the last that later steps are not told, as if they were a delay's gap.
    """
    target = self.stage.target
    tokens = batch[target.stream.name][..., slice(*target.span)]
    steps, valid = stages.to_steps(target, tokens)
    prefix, places = self.prefix(batch, dropped)
    told = jnp.asarray(valid[:-1])
    told = told if blanked is None else told & ~blanked
    inputs = self.embed_steps(steps[:, :-1], told)
    first = jnp.broadcast_to(self.first, (inputs.shape[0], 1, self.config.width))
    inputs = jnp.concatenate([first, inputs], 1)
    aligned = self.aligned(batch, dropped)
    inputs = inputs if aligned is None else inputs + aligned
    x = jnp.concatenate([prefix, inputs], 1)
    places = jnp.concatenate([places, self.step_positions(batch, jnp.arange(steps.shape[1]))], 1)
    hidden = self.transformer(x, places, prefix.shape[1], deterministic)[:, prefix.shape[1] :]
    frames, depth = tokens.shape[1:]
    if target.pattern == 'flatten':
      hidden = hidden.reshape(hidden.shape[0], frames, depth, -1)
    else:
      hidden = jnp.stack([hidden[:, k : k + frames] for k in range(depth)], 2)
    # Levels first: XLA's CPU backend has no bfloat16 product with another order.
    hidden = jnp.moveaxis(hidden, 2, 0).reshape(depth, -1, hidden.shape[-1])
    logits = products.by_level(hidden, self.head, self.config.transposed)
    logits = jnp.moveaxis(logits.reshape(depth, -1, frames, logits.shape[-1]), 0, 2)
    return constrain(logits, 'batch', 'length', None, 'vocab')

  def _step_logits(self, hidden: Float[Array, 'b width'], step) -> Float[Array, 'b k codes']:
    if self.stage.target.pattern == 'flatten':
      head = jax.lax.dynamic_index_in_dim(self.head, step % self.stage.target.depth, keepdims=True)
    else:
      head = self.head
    if self.config.transposed:  # all levels by one product
      kernel = head.reshape(-1, head.shape[-1]).astype(hidden.dtype)
      logits = products.product(hidden, kernel, products.wide(hidden.dtype))
      return logits.reshape(hidden.shape[0], *head.shape[:2])
    levels = jnp.broadcast_to(hidden, (head.shape[0], *hidden.shape))
    return jnp.moveaxis(products.by_level(levels, head), 0, 1)

  def prefill(
    self,
    batch: dict,
    known: Int[Array, 'b n k'],
    capacity: int,
    dropped: Bool[Array, 'b conditions'] | None = None,
  ) -> tuple[Float[Array, 'b k codes'], Cache]:
    """Reads the prefix and `n` known steps; logits of step n, and a cache for `capacity` elements.

    Args:
      batch: conditions, and the target's `NAME/offset`.
      known: steps that are given, such as the tail of the window before.
      capacity: elements that prefix and steps will come to.
      dropped: conditions to be left out, for guidance.
    """
    count = known.shape[1]
    valid = np.ones(known.shape[1:], bool)
    if self.stage.target.pattern == 'delay':
      valid = np.arange(count)[:, None] >= np.arange(known.shape[2])
    prefix, places = self.prefix(batch, dropped)
    first = jnp.broadcast_to(self.first, (prefix.shape[0], 1, self.config.width))
    inputs = jnp.concatenate([first, self.embed_steps(known, jnp.asarray(valid))], 1)
    aligned = self.aligned(batch, dropped)
    inputs = inputs if aligned is None else inputs + aligned[:, : count + 1]
    x = jnp.concatenate([prefix, inputs], 1)
    places = jnp.concatenate([places, self.step_positions(batch, jnp.arange(count + 1))], 1)
    hidden, layers = self.transformer.prefill(x, places, prefix.shape[1])
    return self._step_logits(hidden[:, -1], jnp.int32(count)), cache_lib.start(layers, capacity, aligned)

  def decode_step(
    self, batch: dict, tokens: Int[Array, 'b k'], step: Int[Array, ''], cache: Cache
  ) -> tuple[Float[Array, 'b k codes'], Cache]:
    """Logits of step `step` from the tokens of the step before, and the cache with what they came from."""
    valid = jnp.ones(tokens.shape[1], bool)
    if self.stage.target.pattern == 'delay':
      # The step before holds frame step - 1 - k of level k; beyond the first and last there is a gap.
      frame = step - 1 - jnp.arange(tokens.shape[1])
      valid = (frame >= 0) & (frame < self.stage.frames)
    x = self.embed_steps(tokens[:, None], valid[None], step - 1)
    if cache.aligned is not None:
      x += jax.lax.dynamic_slice_in_dim(cache.aligned, step, 1, 1)
    places = self.step_positions(batch, jnp.reshape(step, (1,)))
    hidden, cache = self.transformer.step(x, places, cache)
    return self._step_logits(hidden[:, 0], step), cache
