import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.models.transformer import RMSNorm, Transformer, TransformerConfig, gelu

ROPE = TransformerConfig(layers=2, width=16, heads=2, mlp=24, dropout=0.2)
RELATIVE = dataclasses.replace(ROPE, positions='relative', time_aligned=False, qk_norm=False)
LENGTH, PREFIX = 9, 4


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({'layers': 0}, 'must be positive'),
    ({'mlp': 0}, 'must be positive'),
    ({'heads': 0}, 'must be positive'),
    ({'width': 24, 'heads': 8}, 'twice the 8 heads'),
    ({'positions': 'sinusoidal'}, 'rope, relative'),
    ({'positions': 'relative'}, 'time_aligned'),
    ({'dropout': 1.0}, 'dropout 1.0'),
    ({'dtype': 'float16'}, 'float16'),
  ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(settings, words):
  with pytest.raises(errors.ConfigError) as caught:
    TransformerConfig(**settings)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value) and '. ' not in str(caught.value)


def inputs():
  x = np.random.default_rng(0).standard_normal((2, LENGTH, 16)).astype(np.float32)
  return x, np.broadcast_to(np.arange(LENGTH, dtype=np.float32), (2, LENGTH))


@functools.cache
def params(config):
  return nn.unbox(jax.jit(Transformer(config).init, static_argnums=3)(jax.random.key(0), *inputs(), PREFIX))


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, x, positions):
  return Transformer(config).apply(params, x, positions, PREFIX)


@pytest.mark.parametrize('config', [ROPE, RELATIVE], ids=['rope', 'relative'])
def test_outputs_see_all_of_the_prefix_and_no_later_element(config):
  x, positions = inputs()
  before = np.asarray(run(config, params(config), x, positions))
  for at in range(LENGTH):
    changed = x.copy()
    changed[:, at] += 1
    same = (np.asarray(run(config, params(config), changed, positions)) == before).all((0, 2))
    expected = [i < at and at >= PREFIX for i in range(LENGTH)]
    np.testing.assert_array_equal(same, expected)


@pytest.mark.parametrize('config', [ROPE, RELATIVE], ids=['rope', 'relative'])
def test_bfloat16_is_close_to_float32(config):
  x, positions = inputs()
  wide = np.asarray(run(config, params(config), x, positions))
  narrow = run(dataclasses.replace(config, dtype='bfloat16'), params(config), x, positions)
  assert narrow.dtype == jnp.bfloat16
  # 8 bits of mantissa, 0.4 %, through some ten operations, on outputs of unit size.
  np.testing.assert_allclose(np.asarray(narrow, np.float32), wide, atol=0.1)
  assert np.abs(np.asarray(narrow, np.float32) - wide).mean() < 0.015


def test_outputs_depend_on_differences_of_positions_alone():
  x, positions = inputs()
  before = run(ROPE, params(ROPE), x, positions)
  # float32 angles of some tens of radians.
  np.testing.assert_allclose(run(ROPE, params(ROPE), x, positions + 12.75), before, atol=1e-4)
  assert np.abs(run(ROPE, params(ROPE), x, positions * 1.5) - before).max() > 1e-3


def test_dropout_differs_by_key_and_is_off_unless_asked_for():
  x, positions = inputs()
  weights = params(ROPE)

  @jax.jit
  def dropped(key):
    return Transformer(ROPE).apply(weights, x, positions, PREFIX, False, rngs={'dropout': key})

  one, again, other = (dropped(jax.random.key(seed)) for seed in (1, 1, 2))
  np.testing.assert_array_equal(one, again)
  assert (np.asarray(one) != np.asarray(other)).mean() > 0.9
  without = dataclasses.replace(ROPE, dropout=0.0)
  np.testing.assert_array_equal(
    run(ROPE, params(ROPE), x, positions), run(without, params(ROPE), x, positions)
  )


def test_the_residual_stream_of_a_fresh_network_does_not_grow_with_depth():
  tree = params(ROPE)['params']
  for name, inner in (('out', 16), ('down', 24)):
    kernel = np.asarray(tree['layer_0'][name]['kernel'])
    # Variance 1 / (2 layers) over fan-in; 256 draws and more: 5 standard deviations are 45 %.
    assert kernel.var() * inner == pytest.approx(1 / 4, rel=0.45)
  assert set(tree) == {'layer_0', 'layer_1', 'norm'}


def test_normalisation_has_unit_mean_square_in_every_dtype():
  x = 7 * inputs()[0]
  for dtype, tolerance in (('float32', 1e-5), ('bfloat16', 1e-2)):  # their rounding
    out = RMSNorm().apply({'params': {'scale': jnp.ones(16)}}, jnp.asarray(x, dtype))
    assert out.dtype == dtype
    np.testing.assert_allclose(np.mean(np.square(np.asarray(out, np.float32)), -1), 1, atol=tolerance)


def test_cosines_of_positions_are_taken_once_for_all_layers_and_their_gradients():
  config = dataclasses.replace(ROPE, layers=3, dropout=0)

  def loss(params, x, positions):
    return jnp.sum(Transformer(config).apply(params, x, positions, PREFIX) ** 2)

  program = jax.jit(jax.grad(loss)).lower(params(config), *inputs()).compile().as_text()
  assert program.count(' cosine(') == 1


def test_gelu_keeps_its_input_alone_and_rounds_once():
  x = jnp.asarray(np.linspace(-6, 6, 997), jnp.bfloat16)
  right, slope = jax.vmap(jax.value_and_grad(nn.gelu))(x.astype(jnp.float32))
  np.testing.assert_array_equal(gelu(x), right.astype(jnp.bfloat16))
  # Each within half of the last of bfloat16's 8 bits; the gradient's sum is of two rounded terms.
  np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x).astype(jnp.float32), slope, rtol=2**-7, atol=2**-9)
  kept = jax.tree.leaves(jax.vjp(gelu, x)[1])
  assert [leaf.dtype for leaf in kept if leaf.ndim] == [x.dtype]
