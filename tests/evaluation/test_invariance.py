"""Agreement of tokens, with codecs whose agreement is known."""

import dataclasses

import numpy as np
import pytest
import small

from v2meow_jax.evaluation import invariance


@dataclasses.dataclass
class Fake:
  """Codes of frames of four samples by a rule."""

  rule: object
  hop: int = 4

  def encode(self, audio):
    return self.rule(audio.reshape(-1, self.hop)).astype(int)[:, None]


def sound(seed, samples=4000):
  return np.random.default_rng(seed).standard_normal((samples, 1)).astype(np.float32)


def test_codes_by_sign_follow_polarity_and_no_gain_and_codes_by_level_the_reverse():
  clips = {'a': sound(0), 'b': sound(1)}
  sign = invariance.agreement(Fake(lambda x: x[:, 0] > 0), clips)
  assert sign['gain of -12 dB']['value'] == 1 and sign['polarity']['value'] == 0
  # Another sample of white noise has the same sign half of the time: 2,000 frames, error 0.011.
  assert sign['shift of 1/2 frame']['value'] == pytest.approx(0.5, abs=0.05)
  assert sign['shift of 1 frame']['value'] == 1 and sign['by chance']['value'] == pytest.approx(0.5, abs=0.01)
  level = invariance.agreement(Fake(lambda x: np.abs(x[:, 0]) // 0.05), clips)
  assert level['polarity']['value'] == 1 and level['gain of -12 dB']['value'] < 0.3
  assert sign['polarity']['count'] == 2


def test_clips_too_short_are_left_out_and_levels_are_told():
  codec = small.make_codec()
  assert invariance.agreement(codec, {'short': sound(0, codec.hop * 5)}) == {}
  found = invariance.agreement(codec, {'a': 0.1 * sound(0, 8000)})
  told = found['gain of -3 dB']
  assert len(told['levels']) == 4 and told['value'] == pytest.approx(np.mean(told['levels']))
  # A convolution moved by its stride is the same but at the edges; this one sees a few frames.
  assert found['shift of 1 frame']['value'] > 0.95
  assert found['shift of 1/2 frame']['value'] < found['shift of 1 sample']['value']
