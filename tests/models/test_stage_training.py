import functools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from v2meow_jax import description
from v2meow_jax.models.trainable import StageTrainable, token_losses
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.training.optimizers import adamw

MOTION = Stream('video/motion', 'embedding', 4, 3)
TOKENS = Stream('audio/acoustic', 'tokens', 8, 3, 128)
SMALL = TransformerConfig(layers=2, width=32, heads=2, mlp=64)


@functools.cache
def trainable(pattern):
  stage = Stage('test', (Condition(MOTION, dropout=0.1),), Target(TOKENS, (1, 3), pattern), 1)
  return StageTrainable(stage, SMALL, adamw(1e-2))


@functools.cache
def compiled(pattern, name):
  return jax.jit(getattr(trainable(pattern), name))


def batch_of(seed=0, size=4):
  rng = np.random.default_rng(seed)
  return {
    MOTION.name: rng.standard_normal((size, 4, 3)).astype(np.float32),
    f'{MOTION.name}/mask': np.ones((size, 4), bool),
    f'{MOTION.name}/offset': np.zeros(size, np.float32),
    TOKENS.name: rng.integers(0, 128, (size, 8, 3)).astype(np.int32),
    f'{TOKENS.name}/mask': np.ones((size, 8), bool),
    f'{TOKENS.name}/offset': np.zeros(size, np.float32),
  }


@functools.cache
def fresh(pattern):
  # Both patterns have the same parameters.
  return nn.unbox(jax.jit(trainable('flatten').init)(jax.random.key(0), batch_of()))


def masked_batch():
  batch = batch_of()
  batch[f'{TOKENS.name}/mask'][0, 5:] = False
  batch[f'{TOKENS.name}/mask'][2, 1:] = False
  return batch


PATTERNS = pytest.mark.parametrize('pattern', ['flatten', 'delay'])


def test_the_loss_of_a_token_is_its_negative_log_probability():
  logits = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
  tokens = np.arange(5)
  wide = logits.astype(np.float64)
  expected = -np.log(np.exp(wide)[tokens, tokens] / np.exp(wide).sum(1))
  np.testing.assert_allclose(token_losses(logits, tokens), expected, rtol=1e-5)  # float32


@PATTERNS
def test_a_fresh_model_is_little_worse_than_a_uniform_guess(pattern):
  loss = compiled(pattern, 'evaluate')(fresh(pattern), batch_of())['loss']
  # Logits of unit variance cost half a nat: 10 % of log(128) = 4.85. 64 tokens scatter by another 5 %.
  assert np.log(128) * 0.95 < loss < np.log(128) * 1.2


@PATTERNS
def test_two_layers_learn_a_batch_by_heart(pattern):
  state = fresh(pattern)
  for number in range(120):
    state, row = compiled(pattern, 'step')(state, batch_of(), jax.random.key(number))
  after = compiled(pattern, 'evaluate')(state, batch_of())
  assert int(state['step']) == 120
  # Random tokens that were seen 120 times: less than a tenth of a nat of the 4.85 is left.
  assert after['loss'] < 0.1
  assert after['accuracy'] == 1
  assert np.isfinite(row['grad_norm'])


@PATTERNS
def test_scores_sum_to_the_loss_that_evaluation_reports(pattern):
  state, batch = fresh(pattern), masked_batch()
  row = compiled(pattern, 'evaluate')(state, batch)
  scores = np.asarray(compiled(pattern, 'score_batch')(state['params'], batch), np.float64)
  assert scores.shape == (4, 8, 2)
  mask = batch[f'{TOKENS.name}/mask']
  count = mask.sum()
  assert (scores[~mask] == 0).all() and (scores[mask] < 0).all()
  # float32 sums of some fifty.
  assert row['loss'] == pytest.approx(-scores.sum() / (2 * count), rel=1e-5)
  for level in range(2):
    assert row[f'loss_level_{1 + level}'] == pytest.approx(-scores[..., level].sum() / count, rel=1e-5)
  # 8 frames a second of 2 levels.
  assert row['bits_per_second'] == pytest.approx(-scores.sum() / (2 * count) / np.log(2) * 16, rel=1e-5)
  assert row['weight'] == pytest.approx(count)


@PATTERNS
def test_frames_after_the_end_of_a_clip_do_not_count(pattern):
  state, batch = fresh(pattern), masked_batch()
  before = compiled(pattern, 'evaluate')(state, batch)
  changed = batch | {TOKENS.name: batch[TOKENS.name].copy()}
  mask = batch[f'{TOKENS.name}/mask']
  changed[TOKENS.name][~mask] = (changed[TOKENS.name][~mask] + 5) % 128
  after = compiled(pattern, 'evaluate')(state, changed)
  if pattern == 'flatten':
    assert after['loss'] == before['loss']
  else:
    # A delayed level is predicted after the lower levels of later frames, also where these are padding.
    assert after['loss'] == pytest.approx(float(before['loss']), rel=0.05)
  changed = batch | {TOKENS.name: (batch[TOKENS.name] + 5) % 128}
  assert compiled(pattern, 'evaluate')(state, changed)['loss'] != before['loss']


def test_a_batch_without_any_frame_has_no_loss_and_no_weight():
  batch = batch_of()
  batch[f'{TOKENS.name}/mask'][:] = False
  row = compiled('flatten', 'evaluate')(fresh('flatten'), batch)
  assert row['loss'] == 0 and row['weight'] == 0


def test_the_loss_in_training_drops_conditions_by_key():
  params, batch = fresh('flatten')['params'], batch_of()
  losses = {float(compiled('flatten', 'loss_fn')(params, batch, jax.random.key(i))[0]) for i in range(20)}
  # 4 examples, each without its condition in a tenth of the draws.
  assert len(losses) > 1
  plain = float(compiled('flatten', 'eval_fn')(params, batch)[0])
  # Two compilations, float32: some draws drop nothing.
  assert min(abs(loss - plain) for loss in losses) < 1e-5


def test_the_description_and_the_weights_make_the_same_model():
  made, state, batch = trainable('delay'), fresh('delay'), batch_of()
  about = json.loads(json.dumps(made.describe()))
  assert about['kind'] == 'stage'
  types = (Stage, Condition, Target, Stream, TransformerConfig)
  again = StageTrainable(
    *(description.rebuild(about[k], types) for k in ('stage', 'transformer')), made.optimizer
  )
  assert again.stage == made.stage and again.config == made.config
  jax.tree.map(np.testing.assert_array_equal, again.weights(state), state['params'])
  np.testing.assert_array_equal(
    compiled('delay', 'score_batch')(state['params'], batch),
    jax.jit(again.score_batch)(again.weights(state), batch),
  )
