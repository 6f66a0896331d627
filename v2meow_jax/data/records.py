"""Records of one stream as TFRecord files, and where in them elements lie.

A record is a `tf.train.Example` as TFDS writes it: the clip's id and the stream's elements as raw
little-endian bytes. An index is an int64 array [records, 2]: where in its file a record's elements begin, in
bytes, and how many there are; a part's has the file's size as its last row. A crop is then one range of a
file: no TensorFlow, no parsing, nothing read that is not used.

Preparation writes parts, each with an index of its own; finished, they are joined to shards of
`SHARD_BYTES`, which one index a split describes:

DIR/<stream>/parts/SPLIT-00012.tfrecord, .index.npy       while preparing
DIR/<stream>/1.0.0/NAME-SPLIT.tfrecord-00000-of-00004     shards
DIR/<stream>/1.0.0/NAME-SPLIT.index.npy                   of all records of the split, in their order
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath
from jaxtyping import Int64

from v2meow_jax import files, stores
from v2meow_jax.streams import Stream

VERSION = '1.0.0'
SHARD_BYTES = 128 << 20


def dataset_name(stream: Stream) -> str:
  """The stream's name as TFDS wants a dataset's: `audio_semantic`."""
  return stream.name.replace('/', '_').replace('-', '_').lower()


def folder(directory: epath.PathLike, stream: Stream) -> epath.Path:
  """Where a stream's shards lie."""
  return epath.Path(directory) / stream.name / VERSION


def shard_path(folder: epath.Path, stream: Stream, split: str, shard: int, shards: int) -> epath.Path:
  """Path of a shard in a stream's folder."""
  return folder / f'{dataset_name(stream)}-{split}.tfrecord-{shard:05d}-of-{shards:05d}'


def split_index_path(folder: epath.Path, stream: Stream, split: str) -> epath.Path:
  """Path of the index of a split in a stream's folder."""
  return folder / f'{dataset_name(stream)}-{split}.index.npy'


def part_path(directory: epath.PathLike, stream: Stream, split: str, part: int) -> epath.Path:
  """Path of a part."""
  return epath.Path(directory) / stream.name / 'parts' / f'{split}-{part:05d}.tfrecord'


def index_path(path: epath.Path) -> epath.Path:
  """Path of the index beside a part; earlier versions have one beside each shard, too."""
  return path.with_name(path.name + '.index.npy')


def features(stream: Stream):
  """The TFDS features of a record."""
  import tensorflow_datasets as tfds

  return tfds.features.FeaturesDict(
    {
      'id': tfds.features.Text(),
      'elements': tfds.features.Tensor(
        shape=(None, stream.width), dtype=stream.dtype, encoding=tfds.features.Encoding.BYTES
      ),
    }
  )


def write_part(path: epath.PathLike, stream: Stream, records: Iterable[tuple[str, np.ndarray]]) -> int:
  """Writes records and their index; both appear only when complete, the index last.

  Args:
    path: of the file.
    stream: whose elements these are.
    records: pairs of a clip's id and its elements [n, width].

  Returns:
    The file's size in bytes.
  """
  import tensorflow as tf

  spec, path = features(stream), epath.Path(path)
  rows: list[tuple[int, int]] = []
  offset = 0
  with files.replaced_when_done(path) as temporary:
    with tf.io.TFRecordWriter(temporary) as writer:
      for clip_id, elements in records:
        elements = np.ascontiguousarray(elements, stream.dtype)
        if elements.ndim != 2 or elements.shape[1] != stream.width:
          raise ValueError(f'{stream.name}: elements of shape {elements.shape}, not [n, {stream.width}]')
        serialized = spec.serialize_example({'id': clip_id, 'elements': elements})
        # The same bytes in every process: a protocol buffer's map has no order of its own.
        example = tf.train.Example.FromString(serialized)
        serialized = example.SerializeToString(deterministic=True)
        # A TFRecord frames its data with 12 bytes before (length, checksum) and 4 after (checksum).
        rows.append((offset + 12 + serialized.index(elements.tobytes()), len(elements)))
        writer.write(serialized)
        offset += 12 + len(serialized) + 4
    if os.path.getsize(temporary) != offset:
      raise OSError(f'{path}: {os.path.getsize(temporary)} of {offset} bytes were written; is the disk full?')
  rows.append((offset, 0))
  files.write_array(index_path(path), np.asarray(rows, np.int64))
  return offset


def join(parts: Sequence[epath.Path], shard: epath.Path) -> Int64[np.ndarray, 'n 2']:
  """Makes parts a shard, whose index it returns; their files are removed once it is whole, their indexes not.

  TFRecords follow each other without a frame around them, so a shard is its parts one after another. One that
  is there already, whole, is taken as it is.
  """
  joined, size = [], 0
  for part in parts:
    index = files.read_array(index_path(part))
    joined.append(index[:-1] + np.array([size, 0], np.int64))
    size += int(index[-1, 0])

  def whole() -> bool:
    return shard.exists() and shard.stat().length == size

  if not whole():
    try:
      _concatenate(parts, shard)
    except FileNotFoundError:
      # Another process that finishes the same dataset was faster.
      if not whole():
        raise
  for part in parts:
    with contextlib.suppress(FileNotFoundError):
      part.unlink()
  return np.concatenate(joined)


def _concatenate(parts: Sequence[epath.Path], shard: epath.Path) -> None:
  if len(parts) == 1 and not stores.is_remote(shard):
    os.replace(parts[0], shard)
    return
  with files.replaced_when_done(shard) as temporary, open(temporary, 'wb') as target:
    for part in parts:
      with part.open('rb') as source:
        shutil.copyfileobj(source, target, 1 << 22)
