"""Attention in blocks of queries that keeps no weights: its gradient computes them again.

Only the output and each query's log-sum of exponentials are kept (Dao et al. 2022, FlashAttention, algorithm
4 of its appendix, here in blocks of queries alone). Products of bfloat16 have float32 results both ways.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from v2meow_jax.models import products

# Queries of a block, [first, last), which see the keys before `last`: each up to itself, or all of them.
Block = tuple[int, int, bool]
HIDDEN = -1e30


def _product(spec: str, x: Array, y: Array) -> Array:
  return jnp.einsum(spec, x, y, preferred_element_type=products.wide(x.dtype))


def _scores(block: Block, q: Array, k: Array) -> Float[Array, 'b h q k']:
  first, last, causal = block
  scores = _product('bqhd,bkhd->bhqk', q[:, first:last], k[:, :last]) * q.shape[-1] ** -0.5
  return jnp.where(np.arange(last) <= np.arange(first, last)[:, None], scores, HIDDEN) if causal else scores


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
  blocks: Sequence[Block], q: Float[Array, 'b t h d'], k: Float[Array, 'b t h d'], v: Float[Array, 'b t h d']
) -> Float[Array, 'b t h d']:
  """Scaled dot-product attention of the blocks, which hold all queries in their order."""
  return _forward(blocks, q, k, v)[0]


def _forward(blocks, q, k, v):
  outs, sums = [], []
  for block in blocks:
    scores = _scores(block, q, k)
    most = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - most)
    total = weights.sum(-1, keepdims=True)
    out = _product('bhqk,bkhd->bqhd', weights.astype(v.dtype), v[:, : block[1]])
    outs.append((out / jnp.swapaxes(total, 1, 2)).astype(v.dtype))
    sums.append(most + jnp.log(total))
  out = jnp.concatenate(outs, 1) if len(outs) > 1 else outs[0]
  return out, (q, k, v, out, sums)


def _backward(blocks, kept, grad):
  q, k, v, out, sums = kept
  wide = products.wide(q.dtype)
  # Of each query: the mean, by its weights, of what its weights would gain.
  means = jnp.einsum('bqhd,bqhd->bhq', grad.astype(wide), out.astype(wide))[..., None]
  of_q, of_k, of_v = [], jnp.zeros(k.shape, wide), jnp.zeros(v.shape, wide)
  for block, log_sum in zip(blocks, sums, strict=True):
    first, last, _ = block
    weights, grads = jnp.exp(_scores(block, q, k) - log_sum), grad[:, first:last]
    of_v = of_v.at[:, :last].add(_product('bhqk,bqhd->bkhd', weights.astype(v.dtype), grads))
    of_weights = _product('bqhd,bkhd->bhqk', grads, v[:, :last]) - means[:, :, first:last]
    of_scores = (weights * of_weights * q.shape[-1] ** -0.5).astype(q.dtype)
    of_q.append(_product('bhqk,bkhd->bqhd', of_scores, k[:, :last]).astype(q.dtype))
    of_k = of_k.at[:, :last].add(_product('bhqk,bqhd->bkhd', of_scores, q[:, first:last]))
  return jnp.concatenate(of_q, 1), of_k.astype(k.dtype), of_v.astype(v.dtype)


attend.defvjp(_forward, _backward)
