"""Keys and values of what was read so far, as arguments and results of a decode step.

A step writes its own keys and values first and then attends to all that are there: in this order XLA updates
a loop's cache in place, while writing what was read before copies it. Heads come before time, as the products
of attention want them: with time first XLA turns the whole cache around in every step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from v2meow_jax import products

# A layer's keys and values: each [batch, heads, elements, head dimension], or without the batch where that is
# 1: products drop a dimension of 1, and XLA copies what is read in another shape than it is written in.
LayerCache = tuple[Array, Array]


class Cache(NamedTuple):
  """What every layer remembers.

  Attributes:
    layers: of all elements, with room for more.
    count: how many elements there are.
    aligned: what aligned conditions add to the input of every step; None where there are none.
  """

  layers: list[LayerCache]
  count: Int[Array, '']
  aligned: Float[Array, 'batch steps width'] | None = None


def start(
  layers: list[LayerCache], capacity: int, aligned: Float[Array, 'batch steps width'] | None = None
) -> Cache:
  """A cache of what a prefill has read, [batch, heads, n, d] each, with room for `capacity` elements."""
  layers = jax.tree.map(products.kept, layers)
  count = layers[0][0].shape[2]
  if layers[0][0].shape[0] == 1:
    layers = jax.tree.map(lambda x: x[0], layers)
  return grow(Cache(layers, jnp.int32(count), aligned), capacity)


def grow(cache: Cache, capacity: int) -> Cache:
  """The same with room for `capacity` elements."""

  def pad(x: Array) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, capacity - x.shape[-2]), (0, 0)])

  return cache._replace(layers=jax.tree.map(pad, cache.layers))


def append(layer: LayerCache, new: LayerCache, count: Int[Array, '']) -> LayerCache:
  """A layer's cache of `count` elements with one more, [batch, heads, 1, d] each; there must be room."""

  def write(old: Array, value: Array) -> Array:
    value = value.reshape(*old.shape[:-2], 1, old.shape[-1]).astype(old.dtype)
    return jax.lax.dynamic_update_slice_in_dim(old, value, count, axis=old.ndim - 2)

  return write(layer[0], new[0]), write(layer[1], new[1])
