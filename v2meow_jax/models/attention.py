"""Attention of a prefix and a sequence: full inside the prefix, causal after it.

With P the length of the prefix this is exactly

    concat(full(q[:P], k[:P], v[:P]), causal(q, k, v)[P:])

so each part is a shape that flash kernels know. Softmax is in float32 whatever the inputs are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Index arrays of queries and keys -> an additive bias [heads, queries, keys].
Bias = Callable[[Array, Array], Float[Array, 'heads q k']]


def attend(
  q: Float[Array, 'b q h d'],
  k: Float[Array, 'b k h d'],
  v: Float[Array, 'b k h d'],
  mask: Array | None = None,
  bias: Float[Array, 'h q k'] | None = None,
) -> Float[Array, 'b q h d']:
  """Scaled dot-product attention; `mask` is broadcast to [b, h, q, k], True where a key is seen."""
  scores = jnp.einsum('bqhd,bkhd->bhqk', q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
  if bias is not None:
    scores += bias
  if mask is not None:
    scores = jnp.where(mask, scores, -1e30)
  weights = jax.nn.softmax(scores, -1).astype(v.dtype)
  return jnp.einsum('bhqk,bkhd->bqhd', weights, v)


def prefix_causal(
  q: Float[Array, 'b t h d'],
  k: Float[Array, 'b t h d'],
  v: Float[Array, 'b t h d'],
  prefix: int,
  bias: Bias | None = None,
  block: int = 256,
) -> Float[Array, 'b t h d']:
  """Attention over a prefix of `prefix` elements and the causal sequence after it.

  Queries after the prefix go in blocks, and a block reads only the keys up to its end: half of the
  scores of a masked square are never computed, and none beyond a block are held.
  """
  length = q.shape[1]
  parts = []
  bounds = [(0, prefix)] if prefix else []
  bounds += [(start, min(start + block, length)) for start in range(prefix, length, block)]
  for start, stop in bounds:
    rows, columns = np.arange(start, stop), np.arange(stop)
    mask = None if stop == prefix else jnp.asarray(columns <= rows[:, None])
    added = bias(jnp.asarray(rows), jnp.asarray(columns)) if bias else None
    parts.append(attend(q[:, start:stop], k[:, :stop], v[:, :stop], mask, added))
  return jnp.concatenate(parts, 1) if len(parts) > 1 else parts[0]


def decode(
  q: Float[Array, 'b 1 h d'],
  k: Float[Array, 'b 1 h d'],
  v: Float[Array, 'b 1 h d'],
  cached_k: Float[Array, 'b t h d'],
  cached_v: Float[Array, 'b t h d'],
  filled: Int[Array, ''],
  bias: Bias | None = None,
) -> Float[Array, 'b 1 h d']:
  """Attention of one new element to the first `filled` cached ones and to itself.

  The new key and value are not in the cache yet: writing them is left to the end of the step, so
  that no layer copies its cache.
  """
  capacity = cached_k.shape[1]
  seen = jnp.arange(capacity) < filled
  scale = q.shape[-1] ** -0.5
  old = jnp.einsum('bqhd,bkhd->bhqk', q, cached_k, preferred_element_type=jnp.float32) * scale
  new = jnp.einsum('bqhd,bkhd->bhqk', q, k, preferred_element_type=jnp.float32) * scale
  if bias is not None:
    at = jnp.reshape(filled, (1,))
    old += bias(at, jnp.arange(capacity))
    new += bias(at, at)
  scores = jnp.concatenate([jnp.where(seen, old, -1e30), new], -1)
  weights = jax.nn.softmax(scores, -1).astype(v.dtype)
  out = jnp.einsum('bhqk,bkhd->bqhd', weights[..., :capacity], cached_v)
  return out + jnp.einsum('bhqk,bkhd->bqhd', weights[..., capacity:], v)


def rotate(x: Float[Array, 'b t h d'], positions: Float[Array, 'b t']) -> Float[Array, 'b t h d']:
  """Rotary position embedding (Su et al. 2021): pairs (i, i + d / 2) turn by position / 10000^(2 i / d).

  Positions are real numbers, so elements of streams of different rates can share a time axis.
  """
  half = x.shape[-1] // 2
  frequency = 10000.0 ** (-np.arange(half) / half)
  angle = (positions[..., None] * frequency)[:, :, None, :]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def relative_bucket(distance: Int[Array, '*n'], buckets: int = 32, farthest: int = 128) -> Int[Array, '*n']:
  """T5's bucket of a signed distance, key minus query (Raffel et al. 2020, section 2.1).

  Half of the buckets are for keys after the query; of each half, half are single distances and the
  rest grow logarithmically up to `farthest`, beyond which all share the last.
  """
  half = buckets // 2
  exact = half // 2
  size = jnp.abs(distance)
  ratio = jnp.log(jnp.maximum(size, 1) / exact) / np.log(farthest / exact)
  large = jnp.minimum(exact + (ratio * (half - exact)).astype(jnp.int32), half - 1)
  return jnp.where(distance > 0, half, 0) + jnp.where(size < exact, size, large)
