"""When results count as complete."""

import json

import pytest

from v2meow_jax.generation import results
from v2meow_jax.generation.request import Request
from v2meow_jax.sampling import Sampling


def about(clip, digest='d', dtype='float32', target=-16.0, temperature=1.0, **settings):
  sampling = {'semantic': Sampling(temperature)}
  return results.describe(Request(clip, **settings), digest, sampling, dtype, target)


@pytest.fixture
def made(demo_clip, tmp_path):
  for suffix in results.SUFFIXES:
    (tmp_path / f'a.{suffix}').write_bytes(b'0')
  (tmp_path / 'a.json').write_text(json.dumps(about(demo_clip)))
  return tmp_path


def test_just_this_is_there(made, demo_clip):
  assert results.complete(made, 'a', about(demo_clip))
  assert not results.complete(made, 'b', about(demo_clip))


@pytest.mark.parametrize(
  'other',
  [
    {'digest': 'e'},
    {'dtype': 'bfloat16'},
    {'target': -20.0},
    {'temperature': 0.5},
    {'seed': 1},
    {'duration': 2.0},
  ],
)
def test_anything_else_is_another_request(made, demo_clip, other):
  assert not results.complete(made, 'a', about(demo_clip, **other))


def test_another_video_of_the_same_name_is_another_request(made, demo_clip, tmp_path):
  copy = tmp_path / 'copy.mp4'
  copy.write_bytes(demo_clip.read_bytes())
  (made / 'a.json').write_text(json.dumps(about(copy)))
  assert results.complete(made, 'a', about(copy))
  copy.write_bytes(demo_clip.read_bytes()[:-1])
  assert not results.complete(made, 'a', about(copy))


@pytest.mark.parametrize('suffix', results.SUFFIXES)
def test_every_file_must_be_there(made, demo_clip, suffix):
  (made / f'a.{suffix}').unlink()
  assert not results.complete(made, 'a', about(demo_clip))


def test_music_without_a_video_has_no_film(made):
  wanted = about(None, prompt='slow', duration=2.0)
  (made / 'a.json').write_text(json.dumps(wanted))
  (made / 'a.mp4').unlink()
  assert results.complete(made, 'a', wanted)


@pytest.mark.parametrize('damage', [b'', b'{', b'\xff\xfe', b'[1]'])
def test_a_damaged_description_counts_for_nothing(made, demo_clip, damage):
  (made / 'a.json').write_bytes(damage)
  assert not results.complete(made, 'a', about(demo_clip))
