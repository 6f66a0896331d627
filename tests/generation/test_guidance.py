import jax
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.generation import decode, guidance
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

MOTION = Condition(Stream('video/motion', 'embedding', 4, 3), dropout=0.1)
CLIP = Condition(Stream('video/clip', 'embedding', 1, 3), dropout=0.1)
STYLE = Condition(Stream('style/tokens', 'tokens', 0, 2, 5), dropout=0.1)
TOKENS = Condition(Stream('audio/semantic', 'tokens', 6, 1, 7))
TARGET = Target(Stream('audio/acoustic', 'tokens', 6, 2, 13), pattern='flatten')
STAGE = Stage('test', (MOTION, TOKENS, STYLE, CLIP), TARGET, 1)


def of(**scales):
  return Sampling(guidance=tuple(scales.items()))


def test_branches_and_weights_are_those_of_the_formula():
  found = guidance.branches(STAGE, of(video=3.0, style=5.0), {'video', 'style'})
  # u, v, vt; tokens of the stage before are never left out.
  assert found.dropped.tolist() == [
    [True, False, True, True],
    [False, False, True, False],
    [False, False, False, False],
  ]
  u, v, vt = np.random.default_rng(0).standard_normal((3, 2, 1, 13)).astype(np.float32)
  logits = guidance.combine(np.concatenate([u, v, vt]), found.weights)
  np.testing.assert_allclose(logits, u + 3 * (v - u) + 5 * (vt - v), atol=1e-5)


@pytest.mark.parametrize(
  ('scales', 'given', 'dropped'),
  [
    ({}, {'video', 'style'}, [[False, False, False, False]]),
    ({'video': 3.0}, {'video'}, [[True, False, True, True], [False, False, True, False]]),
    ({'video': 3.0, 'style': 2.0}, {'style'}, [[True, False, True, True], [True, False, False, True]]),
    ({'video': 0.0}, {'video'}, [[True, False, True, True]]),
    ({'style': 1.0}, set(), [[True, False, True, True]]),
    # Guiding by the style alone needs no branch without any condition.
    ({'style': 4.0}, {'video', 'style'}, [[False, False, True, False], [False, False, False, False]]),
  ],
)
def test_branches_of_weight_zero_are_not_run(scales, given, dropped):
  found = guidance.branches(STAGE, of(**scales), given)
  assert found.dropped.tolist() == dropped
  assert found.weights.sum() == pytest.approx(1)


def test_what_a_stage_cannot_be_guided_by_is_refused():
  with pytest.raises(errors.ConfigError, match='no such conditions'):
    guidance.check(STAGE, (('weather', 2.0),))
  always = Stage('test', (Condition(MOTION.stream), STYLE), TARGET, 1)
  with pytest.raises(errors.ConfigError, match=r'video/motion always'):
    guidance.check(always, (('video', 2.0),))
  guidance.check(always, (('video', 1.0), ('style', 2.0)))
  with pytest.raises(errors.ConfigError, match='no such conditions'):
    guidance.check(Stage('test', (TOKENS,), TARGET, 1), (('style', 2.0),))


def test_guided_greedy_tokens_are_the_likeliest_of_the_combined_teacher_forced_logits():
  model = StageModel(STAGE, TransformerConfig(layers=2, width=16, heads=2, mlp=24))
  rng = np.random.default_rng(0)
  batch = {}
  for stream in STAGE.streams:
    shape = (2, stream.length(1), stream.width)
    tokens = stream.kind == 'tokens'
    values = rng.integers(0, stream.codes, shape) if tokens else rng.standard_normal(shape)
    batch[stream.name] = values.astype(np.int32 if tokens else np.float32)
    batch[f'{stream.name}/mask'] = np.ones(shape[:2], bool)
    batch[f'{stream.name}/offset'] = np.zeros(2, np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
  params = jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)['params']
  params = jax.tree.map(lambda x: getattr(x, 'value', x), params, is_leaf=lambda x: hasattr(x, 'value'))
  found = guidance.branches(STAGE, of(video=2.5, style=4.0), {'video', 'style'})
  tokens = decode.generate_here(
    model, params, batch, np.zeros((2, 6, 2), np.int32), np.zeros(2, np.int32),
    jax.random.split(jax.random.key(0), 2), 6, Sampling(0).knobs(), None, found.dropped, found.weights,
  )  # fmt: skip
  batch[TARGET.stream.name] = np.asarray(tokens)
  apply = jax.jit(lambda params, batch, dropped: model.apply({'params': params}, batch, dropped))
  u, v, vt = (np.asarray(apply(params, batch, np.tile(row, (2, 1)))) for row in found.dropped)
  combined = u + 2.5 * (v - u) + 4.0 * (vt - v)
  np.testing.assert_array_equal(tokens, combined.argmax(-1))
  # The guidance does something here.
  assert (combined.argmax(-1) != vt.argmax(-1)).any()
