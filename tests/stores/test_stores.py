"""Datasets on real servers of object stores: written and read as on a disk, also where they fail."""

import itertools
import json
import pathlib

import numpy as np
import pytest
from own import Own

from v2meow_jax import errors, files, stores, terminal
from v2meow_jax.commands import prepare
from v2meow_jax.data import finishing, making, table
from v2meow_jax.data.batches import ClipBatches
from v2meow_jax.data.dataset import Dataset, fingerprint
from v2meow_jax.streams import Stream

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')

WIDE = Stream('video/wide', 'embedding', 4, 64)
TOKENS = Stream('audio/semantic', 'tokens', 25, 1, 512)


def make(directory):
  clips = [
    table.Clip(f'c{n}', f's{n}', float(n), 20.0, ('train', 'validation')[n % 5 == 4], audio='a')
    for n in range(20)
  ]
  directory = stores.address(str(directory))
  directory.mkdir(parents=True, exist_ok=True)
  table.write(directory, clips)
  made = [Own(WIDE), Own(TOKENS)]
  for share in ((1, 2), (0, 2)):
    making.make_parts(directory, made, processes=1, share=share, clips_a_part=2)
  finishing.finish(directory, made, clips_a_part=2, shard_bytes=40000)
  return directory


def batches(directory):
  return ClipBatches(str(directory), (WIDE, TOKENS), 5, 8, seed=4)


@pytest.fixture(scope='module')
def local(tmp_path_factory):
  return make(tmp_path_factory.mktemp('local'))


@pytest.fixture(scope='module')
def remote(bucket):
  return make(f'{bucket[0]}/sets/one')


def content(directory):
  if stores.is_remote(directory):
    store = stores.filesystem(directory)
    root = str(directory).split('://')[1]
    return {name.removeprefix(f'{root}/'): store.cat_file(name) for name in store.find(root)}
  directory = pathlib.Path(directory)
  return {
    str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob('*') if path.is_file()
  }


def test_the_same_bytes_are_written(local, remote):
  ours, theirs = content(local), content(remote)
  assert ours.keys() == theirs.keys()
  for name, data in ours.items():
    assert theirs[name] == data, name


def test_the_same_batches_are_read_and_no_more_than_they_hold(local, remote, bucket):
  assert fingerprint(local) == fingerprint(remote)
  proxy = bucket[1]
  opened = batches(remote)
  opened.source()
  proxy.sent = proxy.requests = 0
  found = list(itertools.islice(opened.start(3), 12))
  read = sum(
    array.nbytes for batch in found for name, array in batch.items() if name in (WIDE.name, TOKENS.name)
  )
  for one, other in zip(itertools.islice(batches(local).start(3), 12), found, strict=True):
    for name, value in one.items():
      np.testing.assert_array_equal(value, other[name])
  # Elements are half as wide in a record as in a batch, tokens too; what was read ahead is the rest.
  assert proxy.sent < read / 2 + 2 * stores.AT_ONCE * 8192
  assert proxy.requests <= 2 * (12 * 8 + 2 * stores.AT_ONCE)


def test_opening_asks_little(remote, bucket):
  proxy = bucket[1]
  proxy.requests = 0
  Dataset(remote, 'train', (WIDE, TOKENS))
  # A handful of files, of which clients ask several times whether and where they are; not two a shard.
  assert proxy.requests <= 60


def test_a_store_that_fails_now_and_then_changes_nothing(local, remote, bucket):
  proxy = bucket[1]
  proxy.share = 0.15
  try:
    found = list(itertools.islice(batches(remote).start(0), 10))
  finally:
    proxy.share = 0.0
  assert set(proxy.faults) == {'503', 'slow', 'cut'}
  for one, other in zip(itertools.islice(batches(local).start(0), 10), found, strict=True):
    for name, value in one.items():
      np.testing.assert_array_equal(value, other[name])


def test_a_store_that_is_gone_is_told_in_a_sentence(remote, monkeypatch):
  opened = batches(remote)
  opened.source()
  monkeypatch.setattr(stores, 'TRIES', 2)
  monkeypatch.setattr(stores, 'FIRST_WAIT', 0.01)

  class Gone:
    def cat_file(self, *arguments, **named):
      raise ConnectionError('nobody is there')

  monkeypatch.setattr(stores, 'filesystem', lambda path: Gone())
  with pytest.raises(
    errors.InputError, match=r'the object store does not answer \(ConnectionError: nobody is there'
  ):
    next(opened.start(0))


def test_prepare_writes_there(bucket, tmp_path, demo_clip):
  manifest = tmp_path / 'm.jsonl'
  manifest.write_text(json.dumps({'id': 'film', 'video': str(demo_clip)}) + '\n')
  out = f'{bucket[0]}/sets/film'
  flags = ['--manifest', str(manifest), '--workers=1', '--clip_seconds=10']
  assert terminal.run(prepare.main, [*flags, '--out', out]) == 0
  assert terminal.run(prepare.main, [*flags, '--out', str(tmp_path / 'film')]) == 0
  assert content(stores.address(out)).keys() == content(stores.address(str(tmp_path / 'film'))).keys()
  assert files.read_lines(stores.address(f'{out}/clips.jsonl'))[0]['id'] == 'film-0000'
  assert not (tmp_path / bucket[0].split(':')[0]).exists()


@pytest.mark.parametrize('address', ['ftp://host/ds', 'hdfs://host/ds'])
def test_other_addresses_are_refused(address, capsys):
  with pytest.raises(SystemExit, match='2'):
    terminal.run(prepare.main, ['--out', address])
  assert 'gs:// and s3:// are understood' in capsys.readouterr().err
