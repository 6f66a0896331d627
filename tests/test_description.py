import dataclasses
import json
from fractions import Fraction

import pytest

from v2meow_jax import errors
from v2meow_jax.description import describe, rebuild
from v2meow_jax.encoders.semantic import SemanticConfig
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

TYPES = (Condition, Stage, Stream, Target)
STREAM = Stream('audio/acoustic', 'tokens', Fraction(75, 2), 4, 256)


def test_a_stream_is_described_by_plain_values():
  expected = {'type': 'Stream', 'name': 'audio/acoustic', 'kind': 'tokens', 'rate': '75/2', 'width': 4}
  assert describe(STREAM) == expected | {'codes': 256}


def test_a_nested_description_survives_json():
  motion = Stream('video/motion', 'embedding', 4, 14)
  stage = Stage(
    'fine',
    (Condition(STREAM, (0, 1)), Condition(motion, dropout=0.25)),
    Target(STREAM, (1, 4), 'delay'),
    Fraction(10, 3),
  )
  back = rebuild(json.loads(json.dumps(describe(stage))), TYPES)
  assert back == stage
  assert isinstance(back.conditions, tuple) and isinstance(back.crop_seconds, Fraction)
  assert hash(back) == hash(stage)  # compiled functions take it as a static argument


def test_dictionaries_without_a_type_stay_dictionaries():
  value = {'streams': (STREAM,), 'note': None, 'flag': True, 'size': [1, 2.5]}
  back = rebuild(json.loads(json.dumps(describe(value))), TYPES)
  assert back == {'streams': (STREAM,), 'note': None, 'flag': True, 'size': (1, 2.5)}


def test_a_type_that_was_not_offered_is_refused():
  with pytest.raises(errors.ConfigError, match="unknown type 'SemanticConfig'"):
    rebuild(describe(SemanticConfig()), TYPES)
  with pytest.raises(errors.ConfigError, match="unknown type 'Popen'"):
    rebuild([{'inner': {'type': 'Popen', 'args': ['true']}}], TYPES)


def test_a_setting_that_the_type_does_not_take_is_refused():
  with pytest.raises(errors.ConfigError, match=r'Stream: .*loudness'):
    rebuild(describe(STREAM) | {'loudness': 1}, TYPES)
  with pytest.raises(errors.ConfigError, match=r'Stream: .*kind'):
    rebuild({'type': 'Stream', 'name': 'a'}, TYPES)


def test_settings_are_validated_when_rebuilt():
  with pytest.raises(errors.ConfigError, match='between 2 and 65536'):
    rebuild(describe(STREAM) | {'codes': 0}, TYPES)


def test_what_json_has_no_value_for_is_not_described():
  @dataclasses.dataclass(frozen=True)
  class Holder:
    value: object

  for value in (object(), {1, 2}, b'bytes', 1j):
    with pytest.raises(TypeError, match=f'cannot describe a {type(value).__name__}'):
      describe(Holder(value))
