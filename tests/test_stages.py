from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import errors, stages
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

MOTION = Stream('video/motion', 'embedding', 4, 14)
STYLE = Stream('video/style', 'embedding', 0, 8)
SEMANTIC = Stream('audio/semantic', 'tokens', 25, 1, 1024)
ACOUSTIC = Stream('audio/acoustic', 'tokens', Fraction(75, 2), 6, 256)
WAVE = Stream('audio/waveform', 'audio', 16000)


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda: Condition(WAVE), 'audio/waveform'),
    (lambda: Condition(MOTION, levels=(0, 1)), 'without levels'),
    (lambda: Condition(ACOUSTIC, levels=(0, 7)), 'within its 6'),
    (lambda: Condition(ACOUSTIC, levels=(3, 3)), 'within its 6'),
    (lambda: Condition(ACOUSTIC, levels=(-1, 2)), 'within its 6'),
    (lambda: Condition(ACOUSTIC, levels=(0, 1, 2)), 'within its 6'),
    (lambda: Condition(MOTION, dropout=1.5), 'dropout 1.5'),
    (lambda: Condition(MOTION, dropout=float('nan')), 'dropout nan'),
    (lambda: Target(MOTION), 'only token streams'),
    (lambda: Target(ACOUSTIC, (2, 9)), 'within its 6'),
    (lambda: Target(ACOUSTIC, pattern='parallel'), 'flatten, delay'),
    (lambda: Stage('s', (), Target(SEMANTIC), 0), 'holds no frame'),
    (lambda: Stage('s', (), Target(SEMANTIC), -1), 'holds no frame'),
    (lambda: Stage('s', (), Target(SEMANTIC), Fraction(1, 100)), 'holds no frame'),
    (lambda: Stage('s', (Condition(MOTION), Condition(MOTION)), Target(SEMANTIC), 1), 'named twice'),
    (
      lambda: Stage(
        's', (Condition(Stream('video/motion', 'embedding', 2, 14)), Condition(MOTION)), Target(SEMANTIC), 1
      ),
      'named twice',
    ),
    (
      lambda: Stage(
        's', (Condition(Stream('audio/acoustic', 'tokens', 25, 6, 256), (0, 1)),), Target(ACOUSTIC, (1, 2)), 1
      ),
      'two ways',
    ),
    (lambda: Stage('s', (Condition(ACOUSTIC, (0, 3)),), Target(ACOUSTIC, (2, 6)), 1), 'only lower levels'),
    (lambda: Stage('s', (Condition(ACOUSTIC),), Target(ACOUSTIC), 1), 'only lower levels'),
  ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(make, words):
  with pytest.raises(errors.ConfigError) as caught:
    make()
  assert words in str(caught.value)
  assert '\n' not in str(caught.value) and '. ' not in str(caught.value)


def test_levels_are_all_of_the_stream_by_default():
  assert Condition(ACOUSTIC).levels == Target(ACOUSTIC).levels == (0, 6)
  assert Condition(MOTION).levels is None
  assert Condition(ACOUSTIC, [0, 2]).levels == (0, 2)  # JSON and gin have lists


@pytest.mark.parametrize(
  ('pattern', 'step_rate', 'steps', 'step_tokens'),
  [('flatten', Fraction(225, 2), 75 * 3, 1), ('delay', Fraction(75, 2), 75 + 2, 3)],
)
def test_sizes_of_a_stage_follow_from_rates_and_crop(pattern, step_rate, steps, step_tokens):
  conditions = (Condition(ACOUSTIC, (0, 1)), Condition(MOTION), Condition(STYLE), Condition(SEMANTIC))
  stage = Stage('fine', conditions, Target(ACOUSTIC, (1, 4), pattern), '2')
  assert stage.target.depth == 3
  assert stage.target.step_rate == step_rate
  assert stage.frames == 75
  assert stage.steps == steps
  assert stage.step_tokens == step_tokens
  assert stage.prefix_length == 75 + 8 + 1 + 50
  assert stage.streams == (ACOUSTIC, MOTION, STYLE, SEMANTIC)


def steps_by_loop(pattern, tokens):
  frames, depth = tokens.shape
  if pattern == 'flatten':
    return np.array([[tokens[f, k]] for f in range(frames) for k in range(depth)]), None
  steps = np.zeros((frames + depth - 1, depth), tokens.dtype)
  valid = np.zeros(steps.shape, bool)
  for f in range(frames):
    for k in range(depth):
      steps[f + k, k], valid[f + k, k] = tokens[f, k], True
  return steps, valid


@pytest.mark.parametrize('xp', [np, jnp])
@pytest.mark.parametrize('pattern', stages.PATTERNS)
@pytest.mark.parametrize(('frames', 'depth'), [(1, 1), (1, 4), (2, 4), (7, 1), (7, 3)])
def test_steps_are_those_of_a_loop_and_turn_back_into_frames(xp, pattern, frames, depth):
  target = Target(ACOUSTIC, (6 - depth, 6), pattern)
  tokens = np.random.default_rng(0).integers(1, 256, (2, 3, frames, depth)).astype(np.int32)
  steps, valid = stages.to_steps(target, xp.asarray(tokens))
  assert isinstance(steps, np.ndarray if xp is np else jax.Array)
  assert isinstance(valid, np.ndarray)
  assert steps.dtype == np.int32
  assert steps.shape[2] == stages.steps_of(target, frames)
  for i in np.ndindex(2, 3):
    expected, expected_valid = steps_by_loop(pattern, tokens[i])
    np.testing.assert_array_equal(steps[i], expected)
    np.testing.assert_array_equal(
      valid, np.ones_like(expected, bool) if expected_valid is None else expected_valid
    )
  np.testing.assert_array_equal(stages.from_steps(target, steps), tokens)


def test_no_frames_take_no_steps():
  assert stages.steps_of(Target(ACOUSTIC, pattern='delay'), 0) == 0
  assert stages.steps_of(Target(ACOUSTIC, pattern='flatten'), 0) == 0
