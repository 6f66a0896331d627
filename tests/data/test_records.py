"""Shards: what is written is read back by position, by TensorFlow and by TFDS alike."""

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.data import records
from v2meow_jax.streams import Stream

TOKENS = Stream('audio/acoustic', 'tokens', 25, 3, 500)
MOTION = Stream('video/motion', 'embedding', 4, 2)


def some_records(stream, lengths=(7, 0, 30, 1)):
  rng = np.random.default_rng(0)
  return [(f'clip-{n}', rng.integers(0, 400, (n, stream.width)).astype(stream.dtype)) for n in lengths]


@pytest.mark.parametrize('stream', [TOKENS, MOTION], ids=lambda s: s.kind)
def test_any_slice_is_that_of_the_array(tmp_path, stream):
  path = tmp_path / 'x.tfrecord-00000-of-00001'
  rows = some_records(stream)
  size = records.write_shard(path, stream, rows)
  assert path.stat().st_size == size
  reader = records.ShardReader(path, stream)
  assert [reader.length(n) for n in range(len(reader))] == [7, 0, 30, 1]
  rng = np.random.default_rng(1)
  for n, (_, elements) in enumerate(rows):
    np.testing.assert_array_equal(reader.read(n), elements)
    for _ in range(20):
      start, stop = sorted(rng.integers(0, 40, 2))
      np.testing.assert_array_equal(reader.read(n, start, stop), elements[start:stop])


def test_tensorflow_reads_the_same(tmp_path):
  tf = pytest.importorskip('tensorflow', reason='part of the extra "train"')
  path = tmp_path / 'x.tfrecord-00000-of-00001'
  rows = some_records(TOKENS)
  records.write_shard(path, TOKENS, rows)
  # TFRecordDataset checks every record's checksums.
  found = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
  spec = records.features(TOKENS)
  for serialized, (clip_id, elements) in zip(found, rows, strict=True):
    example = spec.deserialize_example_np(serialized)
    assert example['id'].decode() == clip_id
    np.testing.assert_array_equal(example['elements'], elements)


def test_a_shortened_shard_and_a_missing_index_are_refused(tmp_path):
  path = tmp_path / 'x.tfrecord-00000-of-00001'
  records.write_shard(path, TOKENS, some_records(TOKENS))
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(errors.DatasetError, match='shorter than its index'):
    records.ShardReader(path, TOKENS)
  records.index_path(path).unlink()
  with pytest.raises(errors.DatasetError, match='missing or damaged'):
    records.ShardReader(path, TOKENS)


def test_a_write_that_fails_leaves_nothing(tmp_path):
  rows = [*some_records(TOKENS), ('wrong', np.zeros((4, 9)))]
  with pytest.raises(ValueError, match='shape'):
    records.write_shard(tmp_path / 'x.tfrecord-00000-of-00001', TOKENS, rows)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('stream', [TOKENS, MOTION], ids=lambda s: s.kind)
def test_the_index_points_at_the_bytes_in_the_file(tmp_path, stream):
  path = tmp_path / 'x.tfrecord-00000-of-00001'
  rows = some_records(stream)
  records.write_shard(path, stream, rows)
  data = path.read_bytes()
  for (offset, count), (_, elements) in zip(np.load(records.index_path(path)), rows, strict=True):
    little = elements.astype(elements.dtype.newbyteorder('<')).tobytes()
    assert count == len(elements) and data[offset : offset + len(little)] == little


def test_a_record_is_a_plain_example(tmp_path):
  tf = pytest.importorskip('tensorflow', reason='part of the extra "train"')
  path = tmp_path / 'x.tfrecord-00000-of-00001'
  rows = some_records(TOKENS)
  records.write_shard(path, TOKENS, rows)
  spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ('id', 'elements')}
  for serialized, (clip_id, elements) in zip(tf.data.TFRecordDataset(str(path)), rows, strict=True):
    example = tf.io.parse_single_example(serialized, spec)
    assert example['id'].numpy().decode() == clip_id
    assert example['elements'].numpy() == elements.tobytes()


def test_either_file_alone_is_refused(tmp_path):
  for number in range(2):
    path = tmp_path / f'x.tfrecord-0000{number}-of-00002'
    records.write_shard(path, TOKENS, some_records(TOKENS))
    (records.index_path(path), path)[number].unlink()
    with pytest.raises(errors.DatasetError, match='missing or damaged'):
      records.ShardReader(path, TOKENS)


def test_a_shard_without_records_is_read(tmp_path):
  path = tmp_path / 'x.tfrecord-00000-of-00001'
  assert records.write_shard(path, TOKENS, []) == 0
  assert len(records.ShardReader(path, TOKENS)) == 0


def test_an_index_that_cannot_be_written_leaves_no_shard(tmp_path, monkeypatch):
  def full(*arguments):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(records.np, 'save', full)
  with pytest.raises(OSError, match='No space'):
    records.write_shard(tmp_path / 'x.tfrecord-00000-of-00001', TOKENS, some_records(TOKENS))
  assert list(tmp_path.iterdir()) == []
