import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax.models import attention, cache

BATCH, HEADS, DIM = 2, 2, 4


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def qkv(length):
  return [random(BATCH, length, HEADS, DIM, seed=seed) for seed in range(3)]


def visible(query, key, prefix):
  """Whether an element sees another: all of the prefix each other, later ones what is not later."""
  return key < prefix if query < prefix else key <= query


def by_loop(q, k, v, prefix, bias=None, out_gradient=None):
  """Attention, or its gradients, one query at a time in float64."""
  q, k, v = (x.astype(np.float64) for x in (q, k, v))
  out, dq, dk, dv = (np.zeros_like(x) for x in (v, q, k, v))
  for b, h, i in np.ndindex(q.shape[0], q.shape[2], q.shape[1]):
    keys = [j for j in range(q.shape[1]) if visible(i, j, prefix)]
    scores = k[b, keys, h] @ q[b, i, h] / math.sqrt(q.shape[-1])
    if bias is not None:
      scores = scores + bias[h, i, keys]
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    out[b, i, h] = weights @ v[b, keys, h]
    if out_gradient is not None:
      g = out_gradient[b, i, h].astype(np.float64)
      slope = weights * (v[b, keys, h] @ g - g @ out[b, i, h]) / math.sqrt(q.shape[-1])
      dq[b, i, h] = slope @ k[b, keys, h]
      dk[b, keys, h] += slope[:, None] * q[b, i, h]
      dv[b, keys, h] += weights[:, None] * g
  return out if out_gradient is None else (dq, dk, dv)


CASES = [(9, 0, 4), (9, 3, 4), (9, 9, 4), (10, 2, 8), (7, 6, 256), (5, 0, 1), (1, 0, 256)]
apply = jax.jit(attention.blockwise, static_argnames=('prefix', 'bias', 'block'))


@pytest.mark.parametrize(('length', 'prefix', 'block'), CASES)
def test_attention_is_a_masked_softmax(length, prefix, block):
  q, k, v = qkv(length)
  # float32 exponentials and sums.
  np.testing.assert_allclose(apply(q, k, v, prefix, block=block), by_loop(q, k, v, prefix), atol=1e-5)


@functools.cache
def distance_bias():
  table = jnp.asarray(random(HEADS, 41, seed=9))
  return lambda rows, columns: table[:, columns[None, :] - rows[:, None] + 20]


@pytest.mark.parametrize(('length', 'prefix', 'block'), [(9, 0, 4), (9, 3, 4)])
def test_a_bias_is_added_before_the_softmax(length, prefix, block):
  q, k, v = qkv(length)
  added = np.asarray(distance_bias()(np.arange(length), np.arange(length)), np.float64)
  found = apply(q, k, v, prefix, distance_bias(), block)
  # float32 exponentials and sums.
  np.testing.assert_allclose(found, by_loop(q, k, v, prefix, added), atol=1e-5)


@pytest.mark.parametrize(('length', 'prefix', 'block'), [(9, 0, 4), (9, 3, 4), (10, 2, 8)])
def test_gradients_are_those_of_the_masked_softmax(length, prefix, block):
  q, k, v = qkv(length)
  weight = random(BATCH, length, HEADS, DIM, seed=5)

  @functools.partial(jax.jit, static_argnums=())
  def gradients(q, k, v):
    loss = lambda *x: jnp.sum(attention.blockwise(*x, prefix, block=block) * weight)  # noqa: E731
    return jax.grad(loss, (0, 1, 2))(q, k, v)

  for found, expected in zip(gradients(q, k, v), by_loop(q, k, v, prefix, None, weight), strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-5)  # float32 exponentials and sums


@pytest.mark.parametrize('biased', [False, True])
def test_decoding_one_element_is_the_last_row_of_the_whole(biased):
  length, prefix, capacity = 9, 3, 12
  q, k, v = qkv(length)
  bias = distance_bias() if biased else None
  whole = apply(q, k, v, prefix, bias, 256)
  # What lies beyond the filled part of a cache must not matter.
  cached = [np.pad(x, ((0, 0), (0, capacity - length), (0, 0), (0, 0)), constant_values=1e3) for x in (k, v)]
  decode = jax.jit(functools.partial(attention.decode, bias=bias))
  for at in range(prefix, length):
    stale = [x.copy() for x in cached]
    for x in stale:
      x[:, at:] = 1e3
    query, *new = (np.swapaxes(x[:, at : at + 1], 1, 2) for x in (q, k, v))
    old = tuple(np.swapaxes(x, 1, 2) for x in stale)
    row = decode(query, cache.append(old, new, jnp.int32(at)), jnp.int32(at + 1))
    np.testing.assert_allclose(row[:, :, 0], whole[:, at], atol=1e-5)  # float32 exponentials and sums
    # A single row is cached without its dimension.
    one = cache.append(tuple(x[0] for x in old), [x[:1] for x in new], jnp.int32(at))
    row = decode(query[:1], one, jnp.int32(at + 1))
    np.testing.assert_allclose(row[:, :, 0], whole[:1, at], atol=1e-5)


def rotated(x, positions):
  return attention.rotate(x, attention.turns(positions, x.shape[-1], x.dtype))


def test_rotation_is_a_product_of_complex_numbers():
  x, positions = random(2, 5, 3, 8), 40 * random(2, 5, seed=1)
  pairs = x[..., :4].astype(np.complex128) + 1j * x[..., 4:]
  for i in range(4):
    pairs[..., i] *= np.exp(1j * positions / 10000 ** (2 * i / 8))[:, :, None]
  expected = np.concatenate([pairs.real, pairs.imag], -1)
  # Angles of up to 100 radians in float32.
  np.testing.assert_allclose(rotated(x, positions), expected, atol=1e-4)


def test_products_of_rotated_vectors_depend_on_the_difference_of_real_positions_alone():
  q, k = random(1, 6, 1, 16), random(1, 6, 1, 16, seed=1)
  at_q, at_k = 5 * random(1, 6, seed=2), 5 * random(1, 6, seed=3)

  def products(shift):
    return np.sum(rotated(q, at_q + shift) * rotated(k, at_k + shift), -1)

  unrotated = np.sum(q * k, -1)
  assert np.abs(products(0) - unrotated).max() > 0.1
  for shift in (0.37, -7.25, 31.4):
    # Angles of up to 40 radians in float32, eight products.
    np.testing.assert_allclose(products(shift), products(0), atol=1e-4)


def test_equal_positions_turn_nothing_against_each_other():
  q, k = random(1, 6, 1, 16), random(1, 6, 1, 16, seed=1)
  at = np.full((1, 6), 12.34, np.float32)
  turned = np.sum(rotated(q, at) * rotated(k, at), -1)
  np.testing.assert_allclose(turned, np.sum(q * k, -1), atol=1e-5)  # float32


def bucket_of(distance, buckets=32, farthest=128):
  """T5's rule in words: a half of the buckets for each sign; half of those are exact distances; the

  others split the logarithm of [exact, farthest) evenly; everything farther is in the last. In whole
  numbers: bucket b of n is the greatest for which size^n >= exact^(n - b) x farthest^b.
  """
  half = buckets // 2
  exact = half // 2
  first = half if distance > 0 else 0
  size = abs(distance)
  if size < exact:
    return first + size
  n = half - exact
  steps = max(b for b in range(n + 1) if size**n >= exact ** (n - b) * farthest**b) if size < farthest else n
  return first + min(exact + steps, half - 1)


def test_buckets_are_those_of_t5():
  distances = np.arange(-300, 301)
  expected = [bucket_of(int(d)) for d in distances]
  assert set(expected) == set(range(32)) - {16}  # a key after the query is at least one away
  np.testing.assert_array_equal(jax.jit(attention.relative_bucket)(distances), expected)
  np.testing.assert_array_equal(attention.relative_bucket(jnp.asarray(distances)), expected)
  other = [bucket_of(int(d), 16, 64) for d in distances]
  np.testing.assert_array_equal(attention.relative_bucket(jnp.asarray(distances), 16, 64), other)
