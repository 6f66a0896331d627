"""The prefix of a stage: each condition projected to the model's width, marked, and placed in time."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from v2meow_jax import linen
from v2meow_jax.models.linear import Linear
from v2meow_jax.stages import Condition, Stage


def name_of(condition: Condition) -> str:
  """A condition's name in parameters: `audio_acoustic_0_3`."""
  name = condition.stream.name.replace('/', '_')
  return name if condition.levels is None else f'{name}_{condition.levels[0]}_{condition.levels[1]}'


def draw_dropped(stage: Stage, key: Array, batch_size: int) -> Bool[Array, 'batch conditions']:
  """Which conditions of which examples training leaves out, each on its own."""
  rates = jnp.asarray([condition.dropout for condition in stage.conditions])
  return jax.random.uniform(key, (batch_size, len(stage.conditions))) < rates


class ConditionEncoder(nn.Module):
  """One condition: [batch, n, width of the stream] -> [batch, n, width of the model].

  Levels of tokens are summed, so an element of the prefix is a frame. An element that the clip lacks,
  and every element of a dropped condition, is the condition's learned null vector: never a mask.
  """

  condition: Condition
  width: int

  @nn.compact
  def __call__(
    self, values: Array, mask: Bool[Array, 'b n'], dropped: Bool[Array, ' b'] | None
  ) -> Float[Array, 'b n width']:
    stream, vector = self.condition.stream, nn.initializers.normal(0.5)
    if stream.kind == 'tokens':
      start, stop = self.condition.span
      init = nn.initializers.normal((stop - start) ** -0.5)
      shape = (stop - start, stream.codes, self.width)
      tables = linen.parameter(self, 'embedding', init, ('levels', 'vocab', 'embed'), shape)
      x = jnp.sum(jnp.stack([tables[k][values[..., start + k]] for k in range(stop - start)]), 0)
    else:
      x = Linear(self.width, ('features', 'embed'), name='projection')(values.astype(linen.real()))
    null = linen.parameter(self, 'null', vector, ('embed',), (self.width,))
    mark = linen.parameter(self, 'mark', vector, ('embed',), (self.width,))
    keep = mask if dropped is None else mask & ~dropped[:, None]
    return jnp.where(keep[..., None], x, null) + mark


def positions(
  condition: Condition, offset: Float[Array, ' b'], length: int, unit: float
) -> Float[Array, 'b n']:
  """Times of a condition's elements, in `unit` Hz steps of the target."""
  rate = float(condition.stream.rate)
  times = jnp.arange(length) / rate if rate else jnp.zeros(length)
  return (offset[:, None] + times) * unit
