"""`v2meow inspect`: what is in a dataset, what is broken, how two differ, a clip as a picture."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from v2meow_jax import terminal
from v2meow_jax.commands import inspect, prepare
from v2meow_jax.data import preparation
from v2meow_jax.streams import Stream

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')

COUNT = Stream('audio/count', 'tokens', 10, 2, 100)


class Count:
  stream, identity = COUNT, {'encoder': 'count'}

  def __init__(self, add=0):
    self.add = add

  def encode_clip(self, clip):
    if clip.start == 10:
      raise ValueError('not this one')
    return (np.arange(COUNT.length(clip.duration))[:, None] + self.add + np.zeros(2, int)) % 100


def run(*arguments):
  return terminal.run(inspect.main, [str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def directory(tmp_path_factory, demo_clip):
  folder = tmp_path_factory.mktemp('inspected')
  row = {'id': 'film', 'video': str(demo_clip), 'licence': 'CC-BY-3.0', 'caption': 'a rabbit'}
  (folder / 'm.jsonl').write_text(json.dumps(row) + '\n')
  out = folder / 'ds'
  flags = ('--manifest', folder / 'm.jsonl', '--out', out, '--workers=1', '--clip_seconds=10')
  assert terminal.run(prepare.main, [str(flag) for flag in flags]) == 0
  preparation.prepare_streams(out, [Count()], processes=1)
  return out


def test_it_tells_what_is_there(directory, capsys):
  assert run(directory) == 0
  told = capsys.readouterr().out
  assert '3 clips of 1 sources, 0.01 h: train 3 (0.01 h)' in told
  assert 'licences: CC-BY-3.0 3' in told and '3 captions' in told
  assert 'audio/count        tokens, 10 Hz, width 2 x 100 codes; 0.0 MB in 1 shards; 1 empty' in told
  assert run(directory, '--json') == 0
  found = json.loads(capsys.readouterr().out)
  assert found['streams']['video/motion']['empty'] == 0
  assert found['streams']['audio/count']['bytes'] == 2 * 2 * 200


def test_a_broken_shard_is_told_with_status_2(directory, tmp_path, capsys):
  copy = shutil.copytree(directory, tmp_path / 'copy')
  shard = next((copy / COUNT.name).rglob('*.tfrecord-00000*'))
  shard.write_bytes(shard.read_bytes()[:100])
  assert run(copy) == 2
  told = capsys.readouterr()
  assert f'broken: {shard}: the file is shorter than its index says' in told.out
  assert '1 faults' in told.err


def test_how_two_differ(directory, tmp_path, capsys):
  copy = shutil.copytree(directory, tmp_path / 'copy')
  assert run(directory, '--compare', copy) == 0
  assert capsys.readouterr().out == 'they hold the same\n'
  entries = json.loads((copy / 'streams.json').read_text())
  del entries['audio/count'], entries['video/motion']
  (copy / 'streams.json').write_text(json.dumps(entries))
  preparation.prepare_streams(copy, [Count(3)], processes=1)
  rows = (copy / 'clips.jsonl').read_text().replace('a rabbit', 'a hare', 1)
  (copy / 'clips.jsonl').write_text(rows)
  assert run(directory, '--compare', copy) == 0
  told = capsys.readouterr().out.splitlines()
  assert told == [
    'another caption: 1 clips (film-0000)',
    'stream audio/count: 2 clips have other elements (film-0000, film-0002)',
    f'only in {directory}: stream video/motion',
  ]


def test_a_clip_is_shown(directory, tmp_path, capsys):
  path = tmp_path / 'clip.png'
  assert run(directory, '--clip=film-0000', '--out', path) == 0
  with Image.open(path) as picture:
    pixels = np.asarray(picture.convert('RGB'))
  assert pixels.shape[1] == 1200 and pixels.std() > 20
  assert run(directory, '--clip=film-9') == 2
  assert "there is no clip 'film-9'" in capsys.readouterr().err
  assert run(directory, '--listen', tmp_path) == 2


def test_its_tokens_are_heard(directory, small_bundle, tmp_path, capsys):
  import soundfile

  copy = shutil.copytree(directory, tmp_path / 'copy')
  flags = ('--out', copy, '--streams=audio/acoustic', '--bundle', small_bundle, '--workers=1')
  assert terminal.run(prepare.main, [str(flag) for flag in flags]) == 0
  path = tmp_path / 'clip.png'
  assert run(copy, '--clip=film-0000', '--out', path, '--listen', small_bundle) == 0
  sound, rate = soundfile.read(tmp_path / 'clip.wav')
  assert len(sound) / rate == pytest.approx(10, abs=0.1)
  assert run(directory, '--clip=film-0000', '--out', path, '--listen', small_bundle) == 2
  assert 'no stream' in capsys.readouterr().err
