"""Parts and shards: what is written is read back by position, by TensorFlow and by TFDS alike."""

import numpy as np
import pytest
from etils import epath

from v2meow_jax import errors, stores
from v2meow_jax.data import records, shards
from v2meow_jax.streams import Stream

TOKENS = Stream('audio/acoustic', 'tokens', 25, 3, 500)
MOTION = Stream('video/motion', 'embedding', 4, 2)
BOTH = pytest.mark.parametrize('stream', [TOKENS, MOTION], ids=lambda s: s.kind)


def some_records(stream, lengths=(7, 0, 30, 1)):
  rng = np.random.default_rng(0)
  return [(f'clip-{n}', rng.integers(0, 400, (n, stream.width)).astype(stream.dtype)) for n in lengths]


def write(directory, stream, groups, parts_a_shard=1):
  """Shards of the groups of records; the number of shards."""
  paths = []
  for number, rows in enumerate(groups):
    paths.append(records.part_path(directory, stream, 'train', number))
    paths[-1].parent.mkdir(parents=True, exist_ok=True)
    records.write_part(paths[-1], stream, rows)
  folder = records.folder(directory, stream)
  folder.mkdir(parents=True)
  groups = [paths[at : at + parts_a_shard] for at in range(0, len(paths), parts_a_shard)]
  index = [
    records.join(group, records.shard_path(folder, stream, 'train', number, len(groups)))
    for number, group in enumerate(groups)
  ]
  np.save(records.split_index_path(folder, stream, 'train'), np.concatenate(index))
  return len(groups)


def reader(directory, stream, count, clips_a_shard):
  return shards.SplitReader(directory, stream, 'train', count, clips_a_shard, stores.OpenFiles(2))


@BOTH
@pytest.mark.parametrize('parts_a_shard', [1, 2, 3])
def test_any_slice_is_that_of_the_array(tmp_path, stream, parts_a_shard):
  rows = some_records(stream, (7, 0, 30, 1, 9, 12, 3))
  groups = [rows[at : at + 2] for at in range(0, len(rows), 2)]
  count = write(tmp_path, stream, groups, parts_a_shard)
  read = reader(tmp_path, stream, count, 2 * parts_a_shard)
  assert [read.length(n) for n in range(len(read))] == [7, 0, 30, 1, 9, 12, 3]
  assert not list((tmp_path / stream.name / 'parts').glob('*.tfrecord'))
  rng = np.random.default_rng(1)
  for n, (_, elements) in enumerate(rows):
    np.testing.assert_array_equal(read.read(n), elements)
    for _ in range(20):
      start, stop = sorted(rng.integers(0, 40, 2))
      np.testing.assert_array_equal(read.read(n, start, stop), elements[start:stop])


def test_few_files_are_open_at_once(tmp_path):
  rows = some_records(TOKENS, (5,) * 12)
  count = write(tmp_path, TOKENS, [[row] for row in rows])
  files = stores.OpenFiles(3)
  read = shards.SplitReader(tmp_path, TOKENS, 'train', count, 1, files)
  for n in [*range(12), 0, 11, 5]:
    np.testing.assert_array_equal(read.read(n), rows[n][1])
    assert len(files) <= 3


def test_tensorflow_reads_the_same(tmp_path):
  tf = pytest.importorskip('tensorflow', reason='part of the extra "train"')
  rows = some_records(TOKENS)
  write(tmp_path, TOKENS, [rows[:1], rows[1:]], 2)
  path = records.shard_path(records.folder(tmp_path, TOKENS), TOKENS, 'train', 0, 1)
  # TFRecordDataset checks every record's checksums.
  found = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
  spec = records.features(TOKENS)
  plain = {name: tf.io.FixedLenFeature([], tf.string) for name in ('id', 'elements')}
  for serialized, (clip_id, elements) in zip(found, rows, strict=True):
    example = spec.deserialize_example_np(serialized)
    assert example['id'].decode() == clip_id
    np.testing.assert_array_equal(example['elements'], elements)
    example = tf.io.parse_single_example(serialized, plain)
    assert example['id'].numpy().decode() == clip_id
    assert example['elements'].numpy() == elements.tobytes()


def test_damage_is_told_when_the_stream_is_opened(tmp_path):
  rows = some_records(TOKENS)
  count = write(tmp_path, TOKENS, [rows[:2], rows[2:]])
  folder = records.folder(tmp_path, TOKENS)
  shard, index = records.shard_path(folder, TOKENS, 'train', 1, 2), next(folder.glob('*.index.npy'))
  whole = shard.read_bytes()
  shard.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(errors.DatasetError, match='00001-of-00002: the file is shorter than its index'):
    reader(tmp_path, TOKENS, count, 2)
  shard.unlink()
  with pytest.raises(errors.DatasetError, match='the shard is missing'):
    reader(tmp_path, TOKENS, count, 2)
  shard.write_bytes(whole)
  reader(tmp_path, TOKENS, count, 2)
  with pytest.raises(errors.DatasetError, match='which are not those of 2 shards'):
    reader(tmp_path, TOKENS, count, 1)
  index.write_bytes(index.read_bytes()[:100])
  with pytest.raises(errors.DatasetError, match='missing or damaged'):
    reader(tmp_path, TOKENS, count, 2)
  index.unlink()
  with pytest.raises(errors.DatasetError, match='missing or damaged'):
    reader(tmp_path, TOKENS, count, 2)


def test_a_shard_that_shrinks_while_it_is_read_is_told(tmp_path):
  write(tmp_path, TOKENS, [some_records(TOKENS)])
  read = reader(tmp_path, TOKENS, 1, 4)
  shard = records.shard_path(records.folder(tmp_path, TOKENS), TOKENS, 'train', 0, 1)
  shard.write_bytes(shard.read_bytes()[:50])
  with pytest.raises(errors.DatasetError, match='could not be read whole'):
    read.read(2)


def test_a_write_that_fails_leaves_nothing(tmp_path):
  rows = [*some_records(TOKENS), ('wrong', np.zeros((4, 9)))]
  with pytest.raises(ValueError, match='shape'):
    records.write_part(tmp_path / 'x.tfrecord', TOKENS, rows)
  assert list(tmp_path.iterdir()) == []


@BOTH
def test_the_index_points_at_the_bytes_in_the_file(tmp_path, stream):
  path, rows = tmp_path / 'x.tfrecord', some_records(stream)
  size = records.write_part(path, stream, rows)
  data, index = path.read_bytes(), np.load(records.index_path(path))
  assert len(data) == size == index[-1, 0]
  for (offset, count), (_, elements) in zip(index[:-1], rows, strict=True):
    little = elements.astype(elements.dtype.newbyteorder('<')).tobytes()
    assert count == len(elements) and data[offset : offset + len(little)] == little


def test_a_part_whose_index_cannot_be_written_does_not_count(tmp_path, monkeypatch):
  def full(*arguments):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(np, 'save', full)
  with pytest.raises(OSError, match='No space'):
    records.write_part(tmp_path / 'x.tfrecord', TOKENS, some_records(TOKENS))
  assert [path.name for path in tmp_path.iterdir()] == ['x.tfrecord']


def test_parts_joined_before_an_interruption_are_not_needed_again(tmp_path):
  rows = some_records(TOKENS)
  paths = [epath.Path(tmp_path / f'{n}.tfrecord') for n in range(2)]
  for path, some in zip(paths, (rows[:2], rows[2:]), strict=True):
    records.write_part(path, TOKENS, some)
  index = records.join(paths, epath.Path(tmp_path / 'shard'))
  whole = (tmp_path / 'shard').read_bytes()
  np.testing.assert_array_equal(records.join(paths, epath.Path(tmp_path / 'shard')), index)
  assert (tmp_path / 'shard').read_bytes() == whole
