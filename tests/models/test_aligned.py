"""Aligned conditions: what they add to which step, without them, and with the tokens before hidden."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import decode_crop, random_batch
from test_stage_model import random_like

from v2meow_jax import errors
from v2meow_jax.generation import decode
from v2meow_jax.models import conditioning
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import PATTERNS, Condition, Stage, Target
from v2meow_jax.streams import Stream

CONFIG = TransformerConfig(layers=2, width=16, heads=2, mlp=24)
MOTION = Stream('video/motion', 'embedding', 4, 3)
STYLE = Stream('style/clap', 'embedding', 0, 5)
ACOUSTIC = Stream('audio/acoustic', 'tokens', 10, 3, 11)


def stage_of(pattern, *conditions):
  return Stage('test', conditions, Target(ACOUSTIC, pattern=pattern), 2)


def aligned(stream=MOTION, context='0.25', dropout=0.5):
  return Condition(stream, dropout=dropout, placement='aligned', context=context)


@functools.cache
def params_of(stage):
  return random_like(StageModel(stage, CONFIG).init, random_batch(stage, 2))


@functools.partial(jax.jit, static_argnums=0)
def added(stage, params, batch, dropped=None):
  return StageModel(stage, CONFIG).apply(params, batch, dropped, method='aligned')


@functools.partial(jax.jit, static_argnums=0)
def forward(stage, params, batch, dropped=None, blanked=None):
  return StageModel(stage, CONFIG).apply(params, batch, dropped, True, blanked)


@pytest.mark.parametrize('rate', [3, 4, 20, '29.97'])
@pytest.mark.parametrize('pattern', PATTERNS)
def test_a_step_is_told_the_elements_around_the_middle_of_its_frame(pattern, rate):
  stream = Stream('video/motion', 'embedding', rate, 3)
  stage = stage_of(pattern, aligned(stream))
  batch, params = random_batch(stage, 1, seed=3), params_of(stage)
  before = np.asarray(added(stage, params, batch))[0]
  target, reach = stage.target, stage.conditions[0].reach
  assert reach == -(-stream.rate // 4)  # a quarter of a second
  values, start = batch[stream.name], batch[f'{stream.name}/offset'][0]
  for element in range(values.shape[1]):
    changed = values.copy()
    changed[:, element] += 1
    moved = (np.asarray(added(stage, params, batch | {stream.name: changed}))[0] != before).any(-1)
    for step in range(stage.steps):
      frame = step // target.depth if pattern == 'flatten' else step
      time = batch[f'{ACOUSTIC.name}/offset'][0] + (frame + 0.5) / 10 - start
      # A step that lies farther out is told what the first beyond the crop is.
      own = min(max(int(time * float(stream.rate) // 1), -1), values.shape[1])
      assert moved[step] == (abs(own - element) <= reach)


def test_the_place_within_an_element_is_told_too():
  stage = stage_of('delay', aligned())  # four elements a second, ten frames: two or three lie in one
  batch = random_batch(stage, 1)
  batch[MOTION.name][:] = 1.0
  rows = np.asarray(added(stage, params_of(stage), batch))[0]
  assert len(np.unique(rows[5:15].round(5), axis=0)) > 3


@pytest.mark.parametrize('stream', [MOTION, STYLE])
def test_what_is_dropped_or_masked_adds_the_same_whatever_it_is(stream):
  stage = stage_of('delay', aligned(stream), Condition(MOTION))
  one, other, params = random_batch(stage, 2), random_batch(stage, 2, seed=1), params_of(stage)
  mixed = one | {stream.name: other[stream.name]}
  dropped = np.asarray([[True, False], [False, False]])
  rows = [np.asarray(added(stage, params, batch, dropped)) for batch in (one, mixed)]
  np.testing.assert_array_equal(rows[0][0], rows[1][0])
  assert (rows[0][1] != rows[1][1]).any()
  nothing = {f'{stream.name}/mask': np.zeros_like(one[f'{stream.name}/mask'])}
  np.testing.assert_array_equal(
    added(stage, params, one | nothing), added(stage, params, mixed | nothing)
  )  # and of a masked one it is the null vector as well
  np.testing.assert_array_equal(added(stage, params, one | nothing)[0], rows[0][0])


@pytest.mark.parametrize(
  'stream', [MOTION, Stream('video/clip', 'embedding', 1, conditioning.WIDEST + 1), ACOUSTIC]
)
def test_every_kind_of_condition_has_a_place_on_a_mesh(stream):
  stage = Stage('test', (aligned(stream),), Target(Stream('audio/other', 'tokens', 10, 1, 7)), 2)
  batch = random_batch(stage, 2)
  shardings, state = Partitioner().state_sharding(StageModel(stage, CONFIG).init, jax.random.key(0), batch)
  assert jax.tree.structure(shardings) == jax.tree.structure(nn.unbox(state))


def test_conditions_of_one_stream_are_dropped_together():
  stage = stage_of('delay', aligned(dropout=0.3), aligned(STYLE, dropout=0.3), Condition(MOTION, dropout=0.3))
  drawn = np.asarray(conditioning.draw_dropped(stage, jax.random.key(0), 4000))
  np.testing.assert_array_equal(drawn[:, 0], drawn[:, 2])
  assert (drawn[:, 0] != drawn[:, 1]).any()
  # 5 standard deviations of a binomial share.
  assert np.abs(drawn.mean(0) - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 4000)


@pytest.mark.parametrize('pattern', PATTERNS)
def test_the_decode_loop_makes_what_teacher_forcing_finds_likeliest(pattern):
  stage = stage_of(pattern, aligned(), Condition(MOTION, dropout=0.5))
  batch, params = random_batch(stage, 3), params_of(stage)
  known = np.zeros((3, 2, 3), np.int32)
  keys = jax.random.split(jax.random.key(0), 3)
  tokens = decode_crop(StageModel(stage, CONFIG), params['params'], batch, known, keys, Sampling(0))
  logits = forward(stage, params, batch | {ACOUSTIC.name: tokens})
  np.testing.assert_array_equal(tokens[:, 2:], np.asarray(logits).argmax(-1)[:, 2:])


def test_guidance_weighs_with_and_without_an_aligned_condition():
  stage = stage_of('flatten', aligned())
  batch, params, scale = random_batch(stage, 2), params_of(stage), 2.5
  tokens = np.asarray(
    decode.generate_here(
      StageModel(stage, CONFIG), params['params'], batch, np.zeros((2, 20, 3), np.int32), np.zeros(2, int),
      jax.random.split(jax.random.key(0), 2), 20, Sampling(0).knobs(), None,
      np.asarray([[True], [False]]), np.float32([1 - scale, scale]),
    )
  )  # fmt: skip
  made = batch | {ACOUSTIC.name: tokens}
  without, given = (
    np.asarray(forward(stage, params, made, np.full((2, 1), dropped))) for dropped in (True, False)
  )
  np.testing.assert_array_equal(tokens, (without + scale * (given - without)).argmax(-1))
  assert (given.argmax(-1) != tokens).any()


def test_a_blanked_token_is_not_told():
  stage = stage_of('delay', aligned())
  batch, params = random_batch(stage, 1), params_of(stage)
  blanked = np.zeros((1, stage.steps - 1, 3), bool)
  blanked[:, 4, 1] = True  # level 1 of frame 3
  other = batch | {ACOUSTIC.name: batch[ACOUSTIC.name].copy()}
  other[ACOUSTIC.name][:, 3, 1] = (other[ACOUSTIC.name][:, 3, 1] + 1) % 11
  hidden = [np.asarray(forward(stage, params, each, None, blanked)) for each in (batch, other)]
  np.testing.assert_array_equal(*hidden)
  shown = [np.asarray(forward(stage, params, each)) for each in (batch, other)]
  assert (shown[0] != shown[1]).any()


def test_blanking_hides_its_share_in_training_and_nothing_in_evaluation():
  stage = stage_of('delay', aligned())
  batch = random_batch(stage, 64)
  plain, blanking = (StageTrainable(stage, CONFIG, optax.sgd(0.1), blanking=share) for share in (0.0, 0.3))
  _, blanked = blanking._draw_hidden(batch, jax.random.key(1))
  assert blanked.shape == (64, stage.steps - 1, 3)
  assert abs(blanked.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / blanked.size)
  params, key = params_of(stage)['params'], jax.random.key(2)
  losses = [
    [made.loss_fn(params, batch, key)[0], made.eval_fn(params, batch)[0]] for made in (plain, blanking)
  ]
  assert losses[0][1] == losses[1][1] and losses[0][0] != losses[1][0]
  assert plain._draw_hidden(batch, key)[1] is None


def test_microbatches_blank_the_same_tokens():
  stage = stage_of('delay', aligned())
  batch, params = random_batch(stage, 4), params_of(stage)['params']
  whole, parts = (
    jax.jit(StageTrainable(stage, CONFIG, optax.sgd(0.1), blanking=0.3, microbatches=count)._gradients)(
      params, jax.tree.map(jnp.asarray, batch), jax.random.key(2)
    )
    for count in (1, 2)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)


def test_a_gain_varies_how_strong_a_condition_is_in_training_and_nothing_else():
  varied = dataclasses.replace(aligned(), gain=3.0)
  stage = stage_of('delay', varied, aligned(STYLE), Condition(MOTION))
  batch = random_batch(stage, 64)
  found = conditioning.vary(stage, jax.random.key(0), batch)
  assert found.keys() == batch.keys()
  for name in batch.keys() - {MOTION.name}:
    assert found[name] is batch[name]
  factors = found[MOTION.name] / batch[MOTION.name]
  each = factors[:, :1, :1]
  np.testing.assert_allclose(factors, np.broadcast_to(each, factors.shape), rtol=1e-5)
  # Log-uniform: half of the 64 are below 1, by four deviations at most.
  assert 1 / 3 <= each.min() < 0.5 and 2 < each.max() <= 3 and 16 <= (each < 1).sum() <= 48
  again = conditioning.vary(stage, jax.random.key(0), batch)
  np.testing.assert_array_equal(found[MOTION.name], again[MOTION.name])


def test_a_gain_is_of_training_alone():
  plain, strong = (stage_of('delay', dataclasses.replace(aligned(dropout=0.0), gain=gain)) for gain in (1, 9))
  made = [StageTrainable(stage, CONFIG, optax.sgd(0.1)) for stage in (plain, strong)]
  batch, params = random_batch(plain, 4), params_of(plain)['params']
  evaluated = [jax.jit(one.eval_fn)(params, batch)[0] for one in made]
  trained = [jax.jit(one.loss_fn)(params, batch, jax.random.key(1))[0] for one in made]
  assert evaluated[0] == evaluated[1] and abs(trained[0] - trained[1]) > 1e-4
  np.testing.assert_allclose(evaluated[0], trained[0], rtol=1e-5)  # there is no dropout either


@pytest.mark.parametrize(('stream', 'gain'), [(MOTION, 0.5), (MOTION, 1000), (ACOUSTIC, 2)])
def test_gains_that_are_none_are_refused(stream, gain):
  with pytest.raises(errors.ConfigError, match='gain'):
    Condition(stream, gain=gain)
