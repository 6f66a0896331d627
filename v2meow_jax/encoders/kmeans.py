"""k-means by Lloyd's algorithm, compiled: for semantic tokens and for a quantiser's first codebooks."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def nearest(points: Float[Array, '*n d'], centres: Float[Array, 'k d']) -> Int[Array, '*n']:
  """Index of the centre at the least Euclidean distance from each point."""
  distances = jnp.sum(centres**2, -1) - 2 * jnp.einsum('...d,kd->...k', points, centres)
  return jnp.argmin(distances, -1).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=('clusters', 'iterations'))
def fit(
  key: Array, points: Float[Array, 'n d'], clusters: int, iterations: int = 20
) -> Float[Array, 'clusters d']:
  """Centres that minimise the mean squared distance to the nearest one (a local minimum).

  Starts from randomly drawn points; a cluster that loses all of its points starts again at a random
  point, so no centre stays unused while there are at least `clusters` different points.
  """
  n = points.shape[0]

  def iterate(centres, key):
    index = nearest(points, centres)
    counts = jnp.zeros(clusters).at[index].add(1.0)
    sums = jnp.zeros_like(centres).at[index].add(points)
    drawn = points[jax.random.randint(key, (clusters,), 0, n)]
    centres = jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1.0)[:, None], drawn)
    return centres, None

  key, start_key = jax.random.split(key)
  start = points[jax.random.choice(start_key, n, (clusters,), replace=n < clusters)]
  centres, _ = jax.lax.scan(iterate, start, jax.random.split(key, iterations))
  return centres
