"""Attention of a prefix and a sequence: full inside the prefix, causal after it.

With P the length of the prefix this is exactly

    concat(full(q[:P], k[:P], v[:P]), causal(q, k, v)[P:])

so each part is a shape that flash kernels know. Softmax is in float32, or wider where the inputs are.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from v2meow_jax import partitioning, products
from v2meow_jax.models import flash
from v2meow_jax.models.cache import LayerCache

# Index arrays of queries and keys -> an additive bias [heads, queries, keys].
Bias = Callable[[Array, Array], Float[Array, 'heads q k']]

# Of positions, for `rotate`: cosines and sines, each [batch, length, 1, head width].
Turns = tuple[Array, Array]

IMPLEMENTATIONS = ('auto', 'xla', 'cudnn', 'splash')


def wide(x: Array) -> Array:
  """`x` in float32, or in float64 where it is that: what sums, norms and softmax are taken in."""
  return x.astype(products.wide(x.dtype))


def _scores(q: Float[Array, 'b q h d'], k: Float[Array, 'b k h d']) -> Float[Array, 'b h q k']:
  kind = products.wide(q.dtype)
  return jnp.einsum('bqhd,bkhd->bhqk', q, k, preferred_element_type=kind) * q.shape[-1] ** -0.5


def attend(
  q: Float[Array, 'b q h d'],
  k: Float[Array, 'b k h d'],
  v: Float[Array, 'b k h d'],
  mask: Array | None = None,
  bias: Float[Array, 'h q k'] | None = None,
) -> Float[Array, 'b q h d']:
  """Scaled dot-product attention; `mask` is broadcast to [b, h, q, k], True where a key is seen."""
  scores = _scores(q, k)
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
  implementation: str = 'auto',
) -> Float[Array, 'b t h d']:
  """Attention over a prefix of `prefix` elements and the causal sequence after it.

  Args:
    q, k, v: queries, keys and values.
    prefix: elements that all see each other.
    bias: added to the scores; flash kernels here take none.
    implementation: `cudnn` (NVIDIA, bfloat16 or float16), `splash` (TPU), `xla` (anywhere), or `auto`:
      the platform's kernel where it applies.
  """
  chosen = choose(implementation, q.dtype, bias is not None)
  if chosen == 'cudnn':
    kernel = functools.partial(jax.nn.dot_product_attention, implementation='cudnn')
    causal = kernel(q, k, v, is_causal=True)
    if not prefix:
      return causal
    return jnp.concatenate([kernel(q[:, :prefix], k[:, :prefix], v[:, :prefix]), causal[:, prefix:]], 1)
  if chosen == 'splash':
    from v2meow_jax.models import splash

    return splash.prefix_causal(q, k, v, prefix)
  return blockwise(q, k, v, prefix, bias)


def choose(implementation: str, dtype, biased: bool) -> str:
  """The implementation that is used: a kernel gives way to `xla`, with a notice, where it does not apply."""
  platform = partitioning.platform()
  kernel = {'gpu': 'cudnn', 'cuda': 'cudnn', 'tpu': 'splash'}.get(platform, 'xla')
  wanted = kernel if implementation == 'auto' else implementation
  if wanted == 'xla':
    return 'xla'
  reason = ''
  if wanted != kernel:
    reason = f'it does not run on {platform}'
  elif biased:
    reason = 'it takes no relative position bias'
  elif wanted == 'cudnn' and jnp.dtype(dtype).itemsize != 2:
    reason = f'it does not take {jnp.dtype(dtype).name}'
  if not reason:
    return wanted
  warnings.warn(f'attention: {reason}, so "xla" is used instead of "{wanted}"', stacklevel=2)
  return 'xla'


def blockwise(
  q: Float[Array, 'b t h d'],
  k: Float[Array, 'b t h d'],
  v: Float[Array, 'b t h d'],
  prefix: int,
  bias: Bias | None = None,
  block: int = 256,
) -> Float[Array, 'b t h d']:
  """The form for any backend: queries after the prefix go in blocks, and a block reads only the keys up to
  its end. Half of the scores of a masked square are never computed, and none beyond a block are held: the
  gradient computes them again.
  """
  length = q.shape[1]
  blocks = ((0, prefix, False),) if prefix else ()
  blocks += tuple((start, min(start + block, length), True) for start in range(prefix, length, block))
  if bias is None:
    return flash.attend(blocks, q, k, v)

  def part(q, k, v, start, stop, causal):
    rows, columns = np.arange(start, stop), np.arange(stop)
    mask = jnp.asarray(columns <= rows[:, None]) if causal else None
    return attend(q, k, v, mask, bias(jnp.asarray(rows), jnp.asarray(columns)))

  forgetful = jax.checkpoint(part, static_argnums=(3, 4, 5))
  parts = [forgetful(q[:, at[0] : at[1]], k[:, : at[1]], v[:, : at[1]], *at) for at in blocks]
  return jnp.concatenate(parts, 1)


def decode(
  q: Float[Array, 'b h 1 d'], cache: LayerCache, count: Int[Array, ''], bias: Bias | None = None
) -> Float[Array, 'b h 1 d']:
  """Attention of the newest element to the `count` cached ones, itself the last of them."""
  keys, values = cache
  scores = products.scores_of_one(q, keys) * q.shape[-1] ** -0.5
  index = jnp.arange(keys.shape[-2])
  if bias is not None:
    scores += bias(jnp.reshape(count - 1, (1,)), index)[:, 0]
  weights = jax.nn.softmax(jnp.where(index < count, scores, -1e30), -1)
  out = products.mean_of_many(weights, values)
  return out.reshape(q.shape).astype(q.dtype)


def turns(positions: Float[Array, 'b t'], width: int, dtype: Any) -> Turns:
  """Cosines and sines by which rotary position embedding turns heads `width` wide (Su et al. 2021).

  Elements (i, i + width / 2) are a pair, turned by position / 10000^(2 i / width). Positions are real
  numbers, so elements of streams of different rates can share a time axis.

  Returns:
    Both as wide as a head, in float32 or wider; the sine has minus where a pair's first is.
  """
  half = width // 2
  frequency, sign = np.tile(10000.0 ** (-np.arange(half) / half), 2), np.repeat([-1.0, 1.0], half)

  def make(positions):
    angle = (positions[..., None] * frequency)[:, :, None, :]
    return jnp.cos(angle), jnp.sin(angle) * sign

  # Or else each layer would compute all cosines again, on CPUs for every head.
  return products.written(make, positions.astype(products.wide(dtype)))


def rotate(x: Float[Array, 'b t h d'], turns: Turns) -> Float[Array, 'b t h d']:
  """Rotary position embedding by the turns of `x`'s positions.

  The other of each pair comes by padding, which is many times faster on CPUs than to join halves, above all
  in the gradient.
  """
  half, wide_x = x.shape[-1] // 2, wide(x)
  sides = ((0, 0),) * (x.ndim - 1)
  others = jnp.pad(wide_x[..., half:], (*sides, (0, half))) + jnp.pad(wide_x[..., :half], (*sides, (half, 0)))
  cos, sin = turns
  return (wide_x * cos + others * sin).astype(x.dtype)


def relative_bucket(
  distance: Int[Array, '*n'], buckets: int = 32, farthest: int = 128, after: bool = True
) -> Int[Array, '*n']:
  """T5's bucket of a signed distance, key minus query (Raffel et al. 2020, section 2.1).

  Half of the buckets are for keys after the query, or none: all of those then share the bucket of the query
  itself, as in T5's decoders. Of the buckets of one side, half are single distances and the rest grow
  logarithmically up to `farthest`, beyond which all share the last.
  """
  side = buckets // 2 if after else buckets
  exact = side // 2
  size = jnp.abs(distance) if after else jnp.maximum(-distance, 0)
  ratio = jnp.log(jnp.maximum(size, 1) / exact) / np.log(farthest / exact)
  large = jnp.minimum(exact + (ratio * (side - exact)).astype(jnp.int32), side - 1)
  bucket = jnp.where(size < exact, size, large)
  return jnp.where(distance > 0, side, 0) + bucket if after else bucket
