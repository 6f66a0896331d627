"""Attention in blocks of queries that keeps no weights: its gradient computes them again.

Only the output and each query's log-sum of exponentials are kept (Dao et al. 2022, FlashAttention, algorithm
4 of its appendix, here in blocks of queries alone). Products of bfloat16 have float32 results both ways.

Heads come before the length inside, and what is summed over in a product is last on its left, as CPUs
multiply fastest (`products`): arrays are written out in those orders once, not by each block.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from v2meow_jax import products

# Queries of a block, [first, last), which see the keys before `last`: each up to itself, or all of them.
Block = tuple[int, int, bool]
HIDDEN = -1e30


def _product(spec: str, x: Array, y: Array) -> Array:
  return jnp.einsum(spec, x, y, preferred_element_type=products.wide(x.dtype))


def _scores(block: Block, q: Float[Array, 'b h t d'], k: Float[Array, 'b h t d']) -> Float[Array, 'b h q k']:
  first, last, causal = block
  scores = _product('bhqd,bhkd->bhqk', q[:, :, first:last], k[:, :, :last]) * q.shape[-1] ** -0.5
  return jnp.where(np.arange(last) <= np.arange(first, last)[:, None], scores, HIDDEN) if causal else scores


def _heads_first(x: Float[Array, 'b t h d']) -> Float[Array, 'b h t d']:
  return jnp.swapaxes(x, 1, 2)


def _length_last(x: Float[Array, 'b h t d']) -> Float[Array, 'b h d t']:
  return jnp.swapaxes(x, 2, 3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
  blocks: Sequence[Block], q: Float[Array, 'b t h d'], k: Float[Array, 'b t h d'], v: Float[Array, 'b t h d']
) -> Float[Array, 'b t h d']:
  """Scaled dot-product attention of the blocks, which hold all queries in their order."""
  return _forward(blocks, q, k, v)[0]


def _forward(blocks, q, k, v):
  q, k, v = (products.written(_heads_first, x) for x in (q, k, v))
  outs, sums = [], []
  for block in blocks:
    scores = _scores(block, q, k)
    most = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - most)
    total = weights.sum(-1, keepdims=True)
    out = _product('bhqk,bhkd->bhqd', weights.astype(v.dtype), v[:, :, : block[1]])
    outs.append((out / total).astype(v.dtype))
    sums.append(most + jnp.log(total))
  out = jnp.concatenate(outs, 2) if len(outs) > 1 else outs[0]
  return jnp.swapaxes(out, 1, 2), (q, k, v, out, sums)


def _backward(blocks, kept, grad):
  q, k, v, out, sums = kept
  wide = products.wide(q.dtype)
  grad = products.written(_heads_first, grad)
  last_q, last_grad = (products.written(_length_last, x) for x in (q, grad))
  # Of each query: the mean, by its weights, of what its weights would gain.
  means = jnp.sum(grad.astype(wide) * out.astype(wide), -1, keepdims=True)
  of_q, of_k = [], jnp.zeros(last_q.shape, wide)
  of_v = of_k
  for block, log_sum in zip(blocks, sums, strict=True):
    first, last, _ = block
    weights = jnp.exp(_scores(block, q, k) - log_sum)
    made = _product('bhdq,bhqk->bhdk', last_grad[..., first:last], weights.astype(v.dtype))
    of_v = of_v.at[..., :last].add(made)
    of_weights = _product('bhqd,bhkd->bhqk', grad[:, :, first:last], v[:, :, :last]) - means[:, :, first:last]
    of_scores = (weights * of_weights * q.shape[-1] ** -0.5).astype(q.dtype)
    of_q.append(_product('bhqk,bhkd->bhqd', of_scores, k[:, :, :last]).astype(q.dtype))
    of_k = of_k.at[..., :last].add(_product('bhdq,bhqk->bhdk', last_q[..., first:last], of_scores))
  of_q = jnp.swapaxes(jnp.concatenate(of_q, 2), 1, 2)
  of_k, of_v = (jnp.transpose(x, (0, 3, 1, 2)).astype(q.dtype) for x in (of_k, of_v))
  return of_q, of_k, of_v


attend.defvjp(_forward, _backward)
