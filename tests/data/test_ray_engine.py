"""The same dataset by a Ray cluster of several workers, also when they die; without Ray, a sentence."""

import importlib.util
import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import psutil
import pytest
import soundfile

from v2meow_jax import errors
from v2meow_jax.data import finishing, making, parts, preparation, ray_engine
from v2meow_jax.encoders.waveform import WaveformEncoder

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')


@pytest.fixture(scope='module')
def media(tmp_path_factory):
  """A table of 24 clips of sound, of which two files are cut off."""
  folder = tmp_path_factory.mktemp('ray')
  rng, rows = np.random.default_rng(0), []
  for n in range(8):
    soundfile.write(folder / f'{n}.wav', 0.1 * rng.standard_normal(8000 * 15), 8000)
    rows.append({'id': str(n), 'audio': f'{n}.wav'})
  (folder / 'm.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  preparation.make_table(folder / 'm.jsonl', folder / 'ds', clip_seconds=5)
  for n in (2, 5):
    (folder / f'{n}.wav').write_bytes(b'gone bad')
  return folder / 'ds'


def made(media, out, engine=None):
  """(files and bytes, what was rejected) of a dataset."""
  directory, encoder = shutil.copytree(media, out), WaveformEncoder(8000)
  making.make_parts(directory, [encoder], processes=1, clips_a_part=2, engine=engine)
  finishing.finish(directory, [encoder], clips_a_part=2)
  rejected = sorted((directory / 'rejected.jsonl').read_text().splitlines())
  files = {
    str(path.relative_to(directory)): path.read_bytes()
    for path in directory.rglob('*')
    if path.is_file() and path.name != 'rejected.jsonl'
  }
  return files, rejected


def on_ray(directory, encoders, jobs):
  return ray_engine.on_ray(directory, encoders, jobs, processes=4)


@pytest.mark.slow
def test_a_cluster_makes_what_one_machine_makes(media, tmp_path):
  pytest.importorskip('ray', reason='part of the extra "ray"')
  assert made(media, tmp_path / 'ray', on_ray) == made(media, tmp_path / 'here')


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing(media, tmp_path):
  pytest.importorskip('ray', reason='part of the extra "ray"')
  killed, ended = [], threading.Event()

  def kill():
    while not ended.wait(0.2) and len(killed) < 2:
      for child in psutil.Process().children(recursive=True):
        name = ' '.join(child.cmdline()) if child.is_running() else ''
        if name.startswith('ray::MapWorker') and '__init__' not in name and child.pid not in killed:
          os.kill(child.pid, signal.SIGKILL)
          killed.append(child.pid)
          time.sleep(3)
          break

  def engine(directory, encoders, jobs):
    for done in on_ray(directory, encoders, jobs):
      if not killer.is_alive() and not killed:
        killer.start()  # as soon as the first part is done
        time.sleep(2)
      yield done
    ended.set()

  killer = threading.Thread(target=kill)
  found = made(media, tmp_path / 'ray', engine)
  assert killed
  assert found == made(media, tmp_path / 'here')


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_a_sentence(media):
  pytest.importorskip('ray', reason='part of the extra "ray"')
  jobs = [(part, ['audio/waveform']) for part in parts.parts_of(media, 2)]
  with pytest.raises(errors.ConfigError, match=r'--ray=127.0.0.1:9: there is no such cluster'):
    list(ray_engine.on_ray(media, [WaveformEncoder(8000)], jobs, address='127.0.0.1:9'))


@pytest.mark.slow
def test_a_cluster_that_goes_away_is_a_sentence_and_what_is_done_stays_done(media, tmp_path):
  pytest.importorskip('ray', reason='part of the extra "ray"')

  def engine(directory, encoders, jobs):
    for number, done in enumerate(on_ray(directory, encoders, jobs)):
      yield done
      if number == 1:
        for child in psutil.Process().children(recursive=True):
          if 'gcs_server' in child.name() or 'raylet' in child.name():
            child.kill()

  with pytest.raises(errors.ConfigError, match=r'--ray=local: .*what is done stays done'):
    made(media, tmp_path / 'ray', engine)
  directory = tmp_path / 'ray'
  stream = WaveformEncoder(8000).stream
  left = parts.unmade(directory, stream, parts.parts_of(directory, 2))
  assert 0 < len(left) < len(parts.parts_of(directory, 2))
  shutil.move(directory, tmp_path / 'begun')
  assert made(tmp_path / 'begun', tmp_path / 'again') == made(media, tmp_path / 'here')


def test_without_ray_one_sentence_says_what_to_install(media, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(errors.ConfigError, match='install v2meow-jax with the extra "ray"'):
    list(ray_engine.on_ray(media, [], [(parts.parts_of(media, 2)[0], [])]))


def test_devices_are_shared_out():
  assert ray_engine._shares({'CPU': 16.0, 'GPU': 2.0}) == (({'num_cpus': 1}, 14), ({'num_gpus': 1}, 2))
  assert ray_engine._shares({'CPU': 16.0}) == (({'num_cpus': 1}, 12), ({'num_cpus': 1}, 4))
  assert ray_engine._shares({'CPU': 8.0, 'TPU': 4.0})[1] == ({'resources': {'TPU': 1}}, 4)
