"""Layouts, remat, microbatches, averages and precision change how a stage is trained, not what is learned."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from v2meow_jax import linen
from v2meow_jax.models import layout
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.training.optimizers import adafactor, adamw

MOTION = Stream('video/motion', 'embedding', 4, 3)
TOKENS = Stream('audio/acoustic', 'tokens', 6, 3, 12)
STAGE = Stage('test', (Condition(MOTION, dropout=0.5),), Target(TOKENS, (1, 3), 'delay'), 1)
SMALL = TransformerConfig(layers=3, width=16, heads=2, mlp=24)
BATCH = 8


def trainable(optimizer=None, stage=STAGE, **changed):
  names = {field.name for field in dataclasses.fields(TransformerConfig)}
  config = dataclasses.replace(SMALL, **{k: v for k, v in changed.items() if k in names})
  rest = {k: v for k, v in changed.items() if k not in names}
  return StageTrainable(stage, config, optimizer or optax.sgd(0.1), **rest)


@functools.cache
def batch():
  rng = np.random.default_rng(0)
  made = {
    MOTION.name: rng.standard_normal((BATCH, 4, 3)).astype(np.float32),
    TOKENS.name: rng.integers(0, 12, (BATCH, 6, 3)).astype(np.int32),
  }
  for name, value in list(made.items()):
    made[f'{name}/mask'] = np.ones(value.shape[:2], bool)
    made[f'{name}/offset'] = np.zeros(BATCH, np.float32)
  # Clips that end at different times.
  made[f'{TOKENS.name}/mask'] = np.arange(6) < rng.integers(1, 7, BATCH)[:, None]
  return made


def state_of(made):
  return nn.unbox(jax.jit(made.init)(jax.random.key(0), batch()))


def train(made, steps=3):
  state, step, rows = state_of(made), jax.jit(made.step), []
  for n in range(steps):
    state, metrics = step(state, batch(), jax.random.key(n))
    rows.append(metrics)
  return state, rows


def close(one, other, atol):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), one, other)


@functools.cache
def plain():
  return train(trainable())


@pytest.mark.parametrize(
  'optimizer', [adamw(1e-2, weight_decay=0.1), adafactor(1e-2)], ids=['adamw', 'adafactor']
)
def test_a_state_comes_back_from_the_other_layout(optimizer):
  made = trainable(optimizer, ema_decay=0.9)
  state = state_of(made)
  stacked = layout.to_scanned(state)
  assert stacked['params']['transformer']['layers']['up']['kernel'].shape == (3, 16, 24)
  again = layout.to_unrolled(stacked, 3)
  close(again, state, atol=0)
  # What restacking makes is what the scanned trainable itself begins with, moments and average among it.
  close(stacked, state_of(made.with_layout('scanned')), atol=0)


def test_stacked_parameters_keep_their_logical_axes_behind_a_new_one():
  boxed = jax.eval_shape(trainable(scan_layers=True).init, jax.random.key(0), batch())
  up = boxed['params']['transformer']['layers']['up']['kernel']
  assert up.names == ('layers', 'embed', 'mlp') and up.value.shape == (3, 16, 24)


@pytest.mark.parametrize('remat', ['none', pytest.param('minimal', marks=pytest.mark.slow), 'full'])
@pytest.mark.parametrize('scan', [False, True], ids=['unrolled', 'scanned'])
def test_neither_scanning_nor_remat_changes_what_is_learned(scan, remat):
  state, rows = train(trainable(scan_layers=scan, remat=remat))
  expected, losses = plain()
  # float32 sums in another order, through three steps.
  np.testing.assert_allclose([row['loss'] for row in rows], [row['loss'] for row in losses], rtol=1e-5)
  close(layout.to_unrolled(state['params'], 3), expected['params'], atol=1e-5)


@pytest.mark.slow
def test_adafactor_trains_both_layouts_to_the_same_numbers():
  made = [trainable(adafactor(0.05), scan_layers=scan) for scan in (False, True)]
  (unrolled, one), (scanned, other) = map(train, made)
  np.testing.assert_allclose([row['loss'] for row in one], [row['loss'] for row in other], rtol=1e-5)
  # float32 sums in another order, through three steps of 5% of an array's size.
  close(layout.to_unrolled(scanned['params'], 3), unrolled['params'], atol=2e-5)


def test_remat_computes_products_again():
  def products(remat):
    made = trainable(remat=remat)
    gradient = jax.grad(lambda params: made.loss_fn(params, batch(), jax.random.key(0))[0])
    text = jax.jit(gradient).lower(state_of(made)['params']).as_text()
    return text.count('stablehlo.dot_general')

  none, minimal, full = map(products, ('none', 'minimal', 'full'))
  # A layer has seven products of parameters, of which the last's result is not needed again.
  assert full >= none + 3 * 6
  assert none <= minimal < full


def test_microbatches_give_the_gradient_of_the_whole_batch():
  state, rows = train(trainable(microbatches=4))
  expected, losses = plain()
  # Conditions are dropped and masks differ between examples; float32 sums in another order.
  for name in losses[0]:
    np.testing.assert_allclose([r[name] for r in rows], [r[name] for r in losses], rtol=2e-5, err_msg=name)
  close(state['params'], expected['params'], atol=1e-5)


def test_decoding_from_stacked_layers_is_decoding_from_single_ones():
  params = state_of(trainable())['params']
  models = (StageModel(STAGE, SMALL), StageModel(STAGE, dataclasses.replace(SMALL, scan_layers=True)))
  results = []
  for model, tree in zip(models, (params, layout.to_scanned(params)), strict=True):
    known = jnp.asarray(batch()[TOKENS.name][:, :2, 1:])
    logits, cache = linen.call(model, tree, batch(), known, 12, method='prefill')
    more, _ = linen.call(model, tree, batch(), known[:, 0], jnp.int32(3), cache, method='decode_step')
    results.append((logits, more))
  close(results[1], results[0], atol=1e-5)  # float32


def test_the_z_loss_is_the_mean_squared_logarithm_of_the_denominator():
  made = trainable(z_loss=0.1)
  params = state_of(made)['params']
  logits = np.asarray(linen.call(made.model, params, batch()), np.float64)
  z = np.log(np.exp(logits).sum(-1)) ** 2
  weights = np.broadcast_to(batch()[f'{TOKENS.name}/mask'][..., None], z.shape)
  _, metrics = made.eval_fn(params, batch())
  np.testing.assert_allclose(metrics['z_loss'], 0.1 * (z * weights).sum() / weights.sum(), rtol=1e-5)
  key = jax.random.key(0)
  undropped = dataclasses.replace(STAGE, conditions=(Condition(MOTION),))
  with_z, without = (trainable(stage=undropped, z_loss=z) for z in (0.1, 0.0))
  added = with_z.loss_fn(params, batch(), key)[0] - without.loss_fn(params, batch(), key)[0]
  np.testing.assert_allclose(added, metrics['z_loss'], rtol=1e-4)


def test_losses_and_accuracies_by_level_are_those_of_a_loop():
  made = trainable()
  params = state_of(made)['params']
  logits = np.asarray(linen.call(made.model, params, batch()), np.float64)
  tokens, mask = batch()[TOKENS.name][..., 1:], batch()[f'{TOKENS.name}/mask']
  losses = [[], []]
  hits = [[], []]
  for b, f, k in np.ndindex(BATCH, 6, 2):
    if mask[b, f]:
      row = logits[b, f, k]
      losses[k].append(np.log(np.exp(row).sum()) - row[tokens[b, f, k]])
      hits[k].append(row.argmax() == tokens[b, f, k])
  found = made.evaluate(state_of(made), batch())
  for k in range(2):
    np.testing.assert_allclose(found[f'loss_level_{k + 1}'], np.mean(losses[k]), rtol=1e-5)
    np.testing.assert_allclose(found[f'accuracy_level_{k + 1}'], np.mean(hits[k]), rtol=1e-5)
  np.testing.assert_allclose(found['loss'], np.mean(losses), rtol=1e-5)
  np.testing.assert_allclose(found['bits_per_second'], np.mean(losses) / np.log(2) * 6 * 2, rtol=1e-5)
  assert found['weight'] == mask.sum()


def test_the_average_of_parameters_is_a_recursion_and_is_what_is_exported():
  made = trainable(ema_decay=0.8)
  state, step = state_of(made), jax.jit(made.step)
  expected = np.asarray(state['params']['head'], np.float64)
  for n in range(4):
    state, _ = step(state, batch(), jax.random.key(n))
    expected = 0.8 * expected + 0.2 * np.asarray(state['params']['head'], np.float64)
  np.testing.assert_allclose(state['ema']['head'], expected, atol=1e-6)  # float32
  np.testing.assert_array_equal(made.weights(state)['head'], state['ema']['head'])
  averaged = made.evaluate(state, batch())['loss']
  np.testing.assert_allclose(averaged, made.eval_fn(state['ema'], batch())[0], rtol=1e-6)
  assert abs(averaged - made.eval_fn(state['params'], batch())[0]) > 1e-6
  fresh = made.with_weights(state_of(made), made.weights(state))
  close(fresh['params'], state['ema'], atol=0)
  close(fresh['ema'], state['ema'], atol=0)


def test_bfloat16_is_for_products_alone():
  made = trainable(dtype='bfloat16')
  state, rows = train(made)
  _, wide = plain()
  assert {leaf.dtype for leaf in jax.tree.leaves(state['params'])} == {jnp.dtype('float32')}
  assert linen.call(made.model, state['params'], batch()).dtype == jnp.float32
  text = jax.jit(made.step).lower(state, batch(), jax.random.key(0)).as_text()
  assert 'xbf16>' in text
  # Three significant digits in the products.
  np.testing.assert_allclose([r['loss'] for r in rows], [r['loss'] for r in wide], rtol=0.02)


def test_model_flops_are_those_of_the_products_that_a_forward_pass_makes():
  stage = Stage('test', (Condition(MOTION),), Target(TOKENS, None, 'flatten'), 4)
  config = TransformerConfig(layers=2, width=32, heads=2, mlp=48)
  made = StageTrainable(stage, config, optax.sgd(0.1))
  shapes = {
    name: jax.ShapeDtypeStruct((2, *value.shape[1:]), value.dtype) for name, value in batch().items()
  } | {TOKENS.name: jax.ShapeDtypeStruct((2, 24, 3), jnp.int32)}
  prefix, length, width = 16, 16 + 72, 32
  rows = sum(prefix if i < prefix else i + 1 for i in range(length))  # keys that each element sees
  of_weights = 2 * length * (4 * width * width + 3 * width * 48)
  forward = 2 * (of_weights + 2 * 2 * width * rows) + 2 * 72 * width * 12
  # The formula halves the square; the triangle has half a diagonal more.
  np.testing.assert_allclose(made.flops(shapes), 3 * 2 * forward, rtol=0.01)
  assert made.tokens(shapes) == 2 * 24 * 3


@pytest.mark.parametrize('settings', [{'microbatches': 0}, {'ema_decay': 1.0}, {'z_loss': -1.0}])
def test_settings_out_of_range_are_refused(settings):
  with pytest.raises(ValueError, match='StageTrainable'):
    trainable(**settings)
