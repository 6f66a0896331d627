"""What is asked for together: names of results, folders that results lie in, and failures of one's own."""

import errno
import os
import shutil

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.generation import results, session, tasks
from v2meow_jax.generation.pipeline import Generated, Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.sampling import Sampling


@pytest.fixture
def films(demo_clip, tmp_path):
  folder = tmp_path / 'films'
  folder.mkdir()
  for name in ('IMG_1.MOV', 'IMG_1.mp4', 'other.mp4'):
    shutil.copy(demo_clip, folder / name)
  return folder


def test_two_films_of_one_stem_have_two_names(films):
  found = tasks.read_tasks([films], {'duration': 1.0})
  assert [task.name for task in found] == ['IMG_1.MOV', 'IMG_1.mp4', 'other']


def test_results_of_an_earlier_run_are_no_films(films, small_bundle):
  pipeline = Pipeline.load(small_bundle)
  (films / 'IMG_1.mp4').unlink()
  (films / 'other.mp4').unlink()
  told = []
  made = tasks.read_tasks([films], {'duration': 1.0})
  work = session.Session(pipeline, films, pipeline.sampling, -16, alone=True)
  about = {made[0].name: results.describe(made[0].request, 'digest', pipeline.sampling, 'float32', -16)}
  assert len(list(work.work(made, about, 1, lambda *_: None))) == 1
  again = tasks.read_tasks([films], {'duration': 1.0}, told.append)
  assert [(task.name, task.request.video.name) for task in again] == [('IMG_1', 'IMG_1.MOV')]
  assert any('IMG_1.mp4: passed over (made by an earlier run)' in line for line in told)


def test_names_of_films_that_no_file_should_have_are_made_safe(demo_clip, tmp_path):
  odd = [b'-dash.mp4', b'$x_{1}$.mp4', b'a\xffb.mp4', b'esc\x1b[31m.mp4', '字'.encode() * 80 + b'.mp4']
  for name in odd:
    shutil.copy(demo_clip, os.path.join(os.fsencode(tmp_path), name))
  found = tasks.read_tasks([tmp_path], {'duration': 1.0})
  assert sorted(task.name for task in found) == sorted(['_dash', '$x_{1}$', 'a_b', 'esc_[31m', '字' * 66])


class Made:
  """A pipeline whose pieces are silence."""

  encoders, stages = (), ()

  def generate_batch(self, requests, sampling=None, progress=None):
    del sampling, progress
    return [Generated(np.full((8000, 1), 0.1, np.float32), 8000, {}, {}) for _ in requests]

  def shown(self, made):
    del made
    return []


@pytest.mark.parametrize('name', ['$x_{1}$', 'スロー', 'a' * 200])
def test_a_name_is_data_in_the_pictures_title_and_the_json(tmp_path, name):
  wanted = Request(None, duration=1.0)
  about = results.describe(wanted, 'd', {'s': Sampling()}, 'float32', -16)
  made = Made().generate_batch([wanted])[0]
  paths = results.write(tmp_path, name, Made(), made, wanted, about)
  assert sorted(path.suffix for path in paths) == ['.json', '.png', '.wav']
  assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in paths)


@pytest.mark.parametrize(
  'error', [OSError(errno.ENOSPC, 'No space left on device'), errors.MediaError('odd film')]
)
def test_a_piece_that_cannot_be_written_is_its_own_failure(tmp_path, monkeypatch, error):
  write = results.write

  def failing(folder, name, *arguments, **settings):
    if name == 'b':
      raise error
    return write(folder, name, *arguments, **settings)

  monkeypatch.setattr(results, 'write', failing)
  asked = [tasks.Task(name, Request(None, duration=1.0)) for name in 'abc']
  work = session.Session(Made(), tmp_path, {}, -16, alone=False)
  about = {name: results.describe(asked[0].request, 'd', {}, 'float32', -16) for name in 'abc'}
  assert len(list(work.work(asked, about, 2, lambda *_: None))) == 2
  assert list(work.failures) == ['b'] and 'could not all be written' in work.failures['b']
  assert {path.stem for path in tmp_path.iterdir()} == {'a', 'c'}
  alone = session.Session(Made(), tmp_path, {}, -16, alone=True)
  with pytest.raises(type(error)):
    list(alone.work(asked[1:2], about, 1, lambda *_: None))


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({'prompt': 5}, '"prompt": expected str, got int'),
    ({'video': []}, '"video": expected str, got array'),
    ({'seed': 1.5}, '"seed": expected int, got float'),
    ({'seed': '3'}, '"seed": expected int, got str'),
    ({'duration': float('nan')}, 'duration'),
    ({'duration': float('inf')}, 'duration'),
    ({'style': 'a\0b'}, '"style" holds a NUL'),
  ],
)
def test_python_users_get_the_same_sentences_as_manifests(settings, words):
  with pytest.raises(errors.ConfigError, match=words):
    Request(**settings)


def test_numbers_of_numpy_are_numbers():
  assert Request(None, seed=np.int64(3), duration=np.float32(2)).duration == 2
