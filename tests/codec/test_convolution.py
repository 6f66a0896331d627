"""Convolutions with fewer products against the one that Flax has."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax.codec import convolution


def noise(*shape):
  return np.random.default_rng(0).standard_normal(shape, np.float32)


def wanted(x, taps, dilation):
  """By the definition, in float64."""
  pad = (len(taps) - 1) // 2 * dilation
  padded = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (0, 0)))
  return sum(
    padded[:, k * dilation :][:, : x.shape[1]] @ taps[k].astype(np.float64) for k in range(len(taps))
  )


def test_an_even_number_of_taps_has_no_centre():
  with pytest.raises(ValueError, match='odd number of taps, not 4'):
    convolution.centred(noise(1, 8, 2), noise(4, 2, 2), 1, 0)


@pytest.mark.parametrize('halvings', [0, 1, 2, 3])
@pytest.mark.parametrize('length', [2, 41])
@pytest.mark.parametrize(('kernel', 'dilation'), [(1, 1), (3, 1), (7, 9), (5, 2)])
def test_outputs_are_the_definition_s(halvings, length, kernel, dilation):
  x, taps = noise(2, length, 5), noise(kernel, 5, 4)
  made = convolution.centred(x, taps, dilation, halvings)
  np.testing.assert_allclose(made, wanted(x, taps, dilation), atol=5e-5)


def test_float32_hardly_rounds_more():
  x, taps = noise(1, 300, 192), noise(7, 192, 192) / np.float32(np.sqrt(7 * 192))
  truth = wanted(x, taps, 3)
  errors = [
    np.sqrt(np.mean((np.asarray(convolution.centred(x, taps, 3, halvings)) - truth) ** 2))
    for halvings in (0, convolution.HALVINGS)
  ]
  assert errors[1] < 2 * errors[0] < 2e-6


def test_it_takes_the_parameters_of_flax_and_has_its_gradient(monkeypatch):
  x, pad = noise(1, 33, 6), 9
  theirs = nn.Conv(4, (7,), kernel_dilation=3, padding=((pad, pad),))
  ours = convolution.Conv(4, 7, 3)
  params = theirs.init(jax.random.key(0), x)
  params = jax.tree.map(lambda leaf: noise(*leaf.shape), params)
  assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, params)
  # Not fast it is Flax's to the bit: codes hang on it.
  np.testing.assert_array_equal(ours.apply(params, x), theirs.apply(params, x))
  monkeypatch.setattr(convolution, 'CHANNELS', 1)
  filters = str(jax.make_jaxpr(ours.apply)(params, x)).count('conv_general_dilated')
  assert filters == 9

  def loss(module):
    return lambda params, x: jnp.sum(jnp.sin(module.apply(params, x)))

  found = [jax.grad(loss(module), (0, 1))(params, x) for module in (ours, theirs)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), *found)


def test_where_products_are_not_what_takes_time_there_is_one(monkeypatch):
  x = noise(1, 33, 6)
  module = convolution.Conv(4, 7)
  params = module.init(jax.random.key(0), x)

  def filters(module, x):
    return str(jax.make_jaxpr(module.apply)(params, x)).count('conv_general_dilated')

  assert filters(module, x) == 1  # few channels
  monkeypatch.setattr(convolution, 'CHANNELS', 1)
  assert filters(module, x) == 9
  assert filters(convolution.Conv(4, 7, fast=False), x) == 1
  assert filters(module, x.astype(jnp.bfloat16)) == 1
