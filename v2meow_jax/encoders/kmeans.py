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

  Starts by k-means++ (Arthur and Vassilvitskii 2007): each centre is drawn among the points with a
  probability proportional to the squared distance to those before it. A cluster that loses all of its
  points is drawn again in the same way.
  """
  n = points.shape[0]

  def draw(key, squared, count):
    # The floor lets points that coincide with a centre be drawn where all of them do.
    return points[jax.random.categorical(key, jnp.log(jnp.maximum(squared, 1e-12)), shape=(count,))]

  def add(i, carry):
    centres, squared = carry
    centre = draw(jax.random.fold_in(start_key, i), squared, 1)[0]
    return centres.at[i].set(centre), jnp.minimum(squared, jnp.sum((points - centre) ** 2, -1))

  def iterate(centres, key):
    index = nearest(points, centres)
    counts = jnp.zeros(clusters).at[index].add(1.0)
    sums = jnp.zeros_like(centres).at[index].add(points)
    squared = jnp.sum((points - centres[index]) ** 2, -1)
    moved = sums / jnp.maximum(counts, 1.0)[:, None]
    # Drawing takes clusters x points random numbers, far more work than the rest of the round.
    again = jax.lax.cond(jnp.all(counts > 0), lambda: moved, lambda: draw(key, squared, clusters))
    return jnp.where(counts[:, None] > 0, moved, again), None

  key, start_key = jax.random.split(key)
  empty = jnp.zeros((clusters, points.shape[1]), points.dtype)
  start, _ = jax.lax.fori_loop(0, clusters, add, (empty, jnp.full(n, 1e30)))
  centres, _ = jax.lax.scan(iterate, start, jax.random.split(key, iterations))
  return centres
