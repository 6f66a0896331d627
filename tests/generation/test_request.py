"""What a request must bring along for a bundle's encoders, and what its encoders are given."""

from fractions import Fraction

import numpy as np
import pytest
import soundfile

from v2meow_jax import errors
from v2meow_jax.generation import request
from v2meow_jax.generation.request import Request
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

ACOUSTIC = Stream('audio/acoustic', 'tokens', 10, 1, 5)


class Style:
  """A style encoder: a text's letters and a recording's samples, or letters alone."""

  def __init__(self, name: str, needs: str):
    self.stream, self.needs, self.identity = Stream(name, 'embedding', Fraction(0), 1), needs, {}

  def encode_text(self, text):
    return np.full((1, 1), len(text), np.float32)

  def encode_clip(self, clip):
    return np.full((1, 1), len(clip.audio(8000)), np.float32)


WORDS, HEARD = Style('style/words', 'caption'), Style('style/clap', 'audio')


def stage(*styles, dropout=0.1):
  return Stage('a', tuple(Condition(style.stream, dropout=dropout) for style in styles), Target(ACOUSTIC), 2)


@pytest.fixture
def recording(tmp_path):
  soundfile.write(tmp_path / 'a.wav', np.zeros(4000, np.float32), 8000)
  return tmp_path / 'a.wav'


def test_a_recording_is_for_those_that_hear(recording):
  asked = Request(style=recording, duration=1.0)
  with pytest.raises(errors.ConfigError, match='knows words alone; give a prompt'):
    request.check(asked, [WORDS], [stage(WORDS)])
  request.check(asked, [WORDS, HEARD], [stage(WORDS, HEARD)])
  piece = request.encode(asked, [WORDS, HEARD], [])
  assert list(piece.streams) == ['style/clap'] and piece.given == {'style'}
  spoken = request.encode(Request(prompt='calm', duration=1.0), [WORDS, HEARD], [])
  assert set(spoken.streams) == {'style/words', 'style/clap'}


@pytest.mark.parametrize(
  ('styles', 'asked', 'told'),
  [
    ((WORDS,), {}, 'a prompt is needed'),
    ((HEARD,), {}, 'a prompt or a style recording is needed'),
    # The recording says nothing to the one that knows words.
    ((WORDS, HEARD), {'style': True}, 'style/words always there'),
  ],
)
def test_what_was_always_there_in_training_must_be_there(recording, styles, asked, told):
  asked = {key: recording for key in asked}
  with pytest.raises(errors.ConfigError, match=told):
    request.check(Request(duration=1.0, **asked), styles, [stage(*styles, dropout=0.0)])
  request.check(Request(duration=1.0, prompt='calm'), styles, [stage(*styles, dropout=0.0)])
