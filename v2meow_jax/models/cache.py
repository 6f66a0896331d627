"""Keys and values of what was read so far, as arguments and results of a decode step.

A step's keys and values go into a short second cache, and every `RECENT` steps those move into the long
one: XLA copies what a loop writes to and reads, so it copies the short one. Heads come before time, as the
products of attention want them: with time first XLA turns the whole cache around in every step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from v2meow_jax import partitioning

RECENT = 32  # steps

# A layer's keys and values, each [batch, heads, elements, head dimension].
LayerCache = tuple[Array, Array]


class Cache(NamedTuple):
  """What every layer remembers.

  Attributes:
    layers: of all elements but the latest, with room for more.
    filled: how many elements those are.
    recent: of the latest elements.
    done: how many those are.
  """

  layers: list[LayerCache]
  filled: Int[Array, '']
  recent: list[LayerCache]
  done: Int[Array, '']

  @property
  def count(self) -> Int[Array, '']:
    """All elements."""
    return self.filled + self.done


class Part(NamedTuple):
  """A stretch of one layer's cache.

  Attributes:
    keys, values: of the elements, with room for more.
    first: index of the first element.
    count: elements that are there.
  """

  keys: Float[Array, 'b h t d']
  values: Float[Array, 'b h t d']
  first: Int[Array, ''] | int
  count: Int[Array, '']


def start(layers: list[LayerCache], capacity: int) -> Cache:
  """A cache of what a prefill has read, [batch, heads, n, d] each, with room for `capacity` elements."""
  if partitioning.platform() == 'cpu':  # whose products of bfloat16 vectors are many times slower
    layers = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), layers)
  keys, _ = layers[0]
  batch, heads, count, dimension = keys.shape
  short = jnp.zeros((batch, heads, RECENT, dimension), keys.dtype)
  recent = [(short, short) for _ in layers]
  return grow(Cache(layers, jnp.int32(count), recent, jnp.int32(0)), capacity)


def grow(cache: Cache, capacity: int) -> Cache:
  """The same with room for `capacity` elements; moving the recent ones needs room for all of those."""
  room = ((0, 0), (0, 0), (0, capacity + RECENT - cache.layers[0][0].shape[2]), (0, 0))
  return cache._replace(layers=jax.tree.map(lambda x: jnp.pad(x, room), cache.layers))


def parts(cache: Cache, layer: int) -> tuple[Part, Part]:
  """What a layer attends to."""
  return (
    Part(*cache.layers[layer], 0, cache.filled),
    Part(*cache.recent[layer], cache.filled, cache.done),
  )


def append(cache: Cache, new: list[LayerCache]) -> Cache:
  """With one more element, [batch, heads, 1, d] each; there must be less than `RECENT` recent ones."""

  def write(old: Array, value: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(old, value.astype(old.dtype), cache.done, axis=2)

  return cache._replace(recent=jax.tree.map(write, cache.recent, new), done=cache.done + 1)


def settle(cache: Cache) -> Cache:
  """With the recent elements moved to the others."""

  def write(old: Array, value: Array) -> Array:
    # What lies behind the elements that are there is overwritten later, and not looked at until then.
    return jax.lax.dynamic_update_slice_in_dim(old, value, cache.filled, axis=2)

  layers = jax.tree.map(write, cache.layers, cache.recent)
  return cache._replace(layers=layers, filled=cache.count, done=jnp.int32(0))
