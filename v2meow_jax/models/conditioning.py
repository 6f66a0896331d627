"""What a stage is given: the prefix, projected, marked and placed in time; and what is added to steps.

A prefix lets attention find what matters anywhere in the crop. An aligned condition is brought to the step
it belongs to: a network of one hidden layer reads the elements around the step's time and where among them
that time lies, and what it makes of them is added to the step's input. Both are this project's choice; V2Meow
has the prefix alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from v2meow_jax import linen
from v2meow_jax.models.linear import Linear
from v2meow_jax.stages import Condition, Stage

WIDEST = 128  # dimensions of an element among those around a step; wider ones and tokens are projected to it


def name_of(condition: Condition) -> str:
  """A condition's name in parameters: `condition_audio_acoustic_0_3`, or `aligned_...`."""
  kind = 'aligned' if condition.placement == 'aligned' else 'condition'
  name = f'{kind}_{condition.stream.name.replace("/", "_")}'
  return name if condition.levels is None else f'{name}_{condition.levels[0]}_{condition.levels[1]}'


def draw_dropped(stage: Stage, key: Array, batch_size: int) -> Bool[Array, 'batch conditions']:
  """Which conditions of which examples training leaves out, each stream on its own.

  Conditions of one stream share a draw: a stream that is placed twice is at times not there at all.
  """
  rates = jnp.asarray([condition.dropout for condition in stage.conditions])
  names = [condition.stream.name for condition in stage.conditions]
  drawn = jax.random.uniform(key, (batch_size, len(names)))
  return drawn[:, np.asarray([names.index(name) for name in names])] < rates


def vary(stage: Stage, key: Array, batch: dict) -> dict:
  """A batch in training, with the embeddings of conditions that have a gain multiplied by drawn factors."""
  gains = {condition.stream.name: condition.gain for condition in stage.conditions if condition.gain > 1}
  varied = dict(batch)
  for number, (name, gain) in enumerate(sorted(gains.items())):
    size = batch[name].shape[0]
    drawn = jax.random.uniform(jax.random.fold_in(key, number), (size, 1, 1), minval=-1.0)
    varied[name] = batch[name] * jnp.exp(np.log(gain) * drawn).astype(batch[name].dtype)
  return varied


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
    vector = nn.initializers.normal(0.5)
    x = _projected(self, self.condition, values, self.width, 'embed')
    null = linen.parameter(self, 'null', vector, ('embed',), (self.width,))
    mark = linen.parameter(self, 'mark', vector, ('embed',), (self.width,))
    keep = mask if dropped is None else mask & ~dropped[:, None]
    return jnp.where(keep[..., None], x, null) + mark


def _projected(
  module: nn.Module, condition: Condition, values: Array, width: int, axis: str
) -> Float[Array, 'b n width']:
  """Elements in `width` dimensions: an embedding's projection, or the sum of the tokens' vectors."""
  stream = condition.stream
  if stream.kind != 'tokens':
    return Linear(width, ('features', axis), name='projection')(values.astype(linen.real()))
  start, stop = condition.span
  init = nn.initializers.normal((stop - start) ** -0.5)
  shape = (stop - start, stream.codes, width)
  tables = linen.parameter(module, 'embedding', init, ('levels', 'vocab', axis), shape)
  return jnp.sum(jnp.stack([tables[k][values[..., start + k]] for k in range(stop - start)]), 0)


class AlignedEncoder(nn.Module):
  """One aligned condition: what it adds to the input of steps at given times, [batch, steps, width].

  Of a step at time t it reads the element that covers t, `reach` elements before and after it, and where
  within its element t lies. So the condition's rate and the target's need not have to do with each other.
  An element that the clip lacks, every one beyond the crop and every one of a dropped condition is a learned
  null vector.
  """

  condition: Condition
  width: int

  @nn.compact
  def __call__(
    self,
    values: Array,
    mask: Bool[Array, 'b n'],
    dropped: Bool[Array, ' b'] | None,
    times: Float[Array, 'b s'],
  ) -> Float[Array, 'b s width']:
    """`times`: of the steps, in seconds after the start of the condition's first element."""
    condition, stream = self.condition, self.condition.stream
    if stream.kind == 'embedding' and stream.width <= WIDEST:
      x = values.astype(linen.real())
    else:
      x = _projected(self, condition, values, WIDEST, 'embed')
    null = linen.parameter(self, 'null', nn.initializers.normal(0.5), ('features',), (x.shape[-1],))
    keep = mask if dropped is None else mask & ~dropped[:, None]
    x = jnp.where(keep[..., None], x, null)
    # One element more on each side, for steps that lie beyond the crop: a delay has some.
    reach, length = condition.reach, x.shape[1]
    beyond = jnp.broadcast_to(null, (x.shape[0], reach + 1, x.shape[2]))
    x = jnp.concatenate([beyond, x, beyond], 1)
    around = jnp.concatenate([x[:, i : i + length + 2] for i in range(2 * reach + 1)], -1)
    hidden = Linear(self.width, ('features', 'mlp'), name='around')(around)
    place = times * float(stream.rate)
    # Rates that divide each other put times on the very border of two elements: rounding must not choose.
    element = jnp.floor(place + 1e-3)
    # Once round within an element; of a stream without a rate there is but one, and no place in it.
    turn = 2 * np.pi * (place - element)
    within = jnp.stack([jnp.sin(turn), jnp.cos(turn)], -1) * bool(stream.rate)
    index = jnp.clip(element.astype(jnp.int32) + 1, 0, length + 1)
    hidden = jnp.take_along_axis(hidden, index[..., None], 1)
    hidden += Linear(self.width, ('features', 'mlp'), name='within')(within)
    return Linear(self.width, ('mlp', 'embed'), name='out')(nn.gelu(hidden))


def positions(
  condition: Condition, offset: Float[Array, ' b'], length: int, unit: float
) -> Float[Array, 'b n']:
  """Times of a condition's elements, in `unit` Hz steps of the target."""
  rate = float(condition.stream.rate)
  times = jnp.arange(length) / rate if rate else jnp.zeros(length)
  return (offset[:, None] + times) * unit
