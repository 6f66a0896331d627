"""One shard of one stream: a TFRecord file, its offset index, and reading from it by position.

A record is a `tf.train.Example` as TFDS writes it: the clip's id and the stream's elements as raw
little-endian bytes. Beside `NAME.tfrecord-00000-of-00004` lies `NAME.tfrecord-00000-of-00004.index.npy`,
an int64 array [records, 2]: where in the file a record's elements begin, in bytes, and how many there
are. A crop is then one slice of a memory map: no TensorFlow, no parsing, nothing read that is not used.
"""

import io
import os
import threading
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Shaped

from v2meow_jax import errors, files
from v2meow_jax.streams import Stream


def dataset_name(stream: Stream) -> str:
  """The stream's name as TFDS wants a dataset's: `audio_semantic`."""
  return stream.name.replace('/', '_').replace('-', '_').lower()


def shard_path(folder: Any, stream: Stream, split: str, shard: int, shards: int) -> Any:
  """Path of a shard in a stream's folder, of the folder's kind."""
  return folder / f'{dataset_name(stream)}-{split}.tfrecord-{shard:05d}-of-{shards:05d}'


def index_path(path: Any) -> Any:
  """Path of the offset index beside a shard."""
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


def write_shard(path: os.PathLike, stream: Stream, records: list[tuple[str, np.ndarray]]) -> int:
  """Writes a shard and its index; both appear only when complete, the index last.

  Args:
    path: of the shard.
    stream: whose elements these are.
    records: pairs of a clip's id and its elements [n, width].

  Returns:
    The shard's size in bytes.
  """
  import tensorflow as tf

  spec = features(stream)
  rows: list[tuple[int, int]] = []
  offset = 0
  with files.replaced_when_done(index_path(path)) as index, files.replaced_when_done(path) as temporary:
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
    with open(index, 'wb') as file:
      np.save(file, np.asarray(rows, np.int64).reshape(-1, 2))
  return offset


class _Remote:
  """Bytes of a file of an object store, read a range at a time; each thread has its own handle."""

  def __init__(self, path: epath.Path):
    self._path, self._handles, self._length = path, threading.local(), path.stat().length

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, part: slice) -> np.ndarray:
    if not hasattr(self._handles, 'file'):
      self._handles.file = self._path.open('rb')
    self._handles.file.seek(part.start)
    return np.frombuffer(self._handles.file.read(part.stop - part.start), np.uint8)


def _open(path: epath.Path) -> Any:
  if '://' in str(path):
    return _Remote(path)
  return np.memmap(path, np.uint8, mode='r') if path.stat().length else np.zeros(0, np.uint8)


class ShardReader:
  """Random access to a shard's records: by a memory map, or by ranges where it lies in an object store.

  Args:
    path: of the shard.
    stream: whose elements these are.

  Raises:
    errors.DatasetError: the shard or its index is missing, or they do not belong together.
  """

  def __init__(self, path: epath.PathLike, stream: Stream):
    self._stream, path = stream, epath.Path(path)
    told = f'{path}: the shard or its index is missing or damaged; prepare the stream again'
    try:
      with errors.translated(errors.DatasetError, told):
        self._index = np.load(io.BytesIO(index_path(path).read_bytes()))
        self._bytes = _open(path)
        if self._index.dtype != np.int64 or self._index.shape[1:] != (2,):
          raise ValueError(f'an index of {self._index.dtype} {self._index.shape}')
    except FileNotFoundError as error:
      raise errors.DatasetError(told) from error
    self._item = stream.dtype.itemsize * stream.width
    if len(self._index):
      ends = self._index[:, 0] + self._index[:, 1] * self._item
      if self._index.min() < 0 or ends.max() > len(self._bytes):
        raise errors.DatasetError(
          f'{path}: the file is shorter than its index says; prepare the stream again'
        )

  def __len__(self) -> int:
    return len(self._index)

  def length(self, record: int) -> int:
    """Elements of a record."""
    return int(self._index[record, 1])

  def read(self, record: int, start: int = 0, stop: int | None = None) -> Shaped[np.ndarray, 'n width']:
    """Elements `start` to `stop` of a record, clipped to what there is."""
    offset, length = (int(value) for value in self._index[record])
    start = min(max(start, 0), length)
    stop = length if stop is None else min(max(stop, start), length)
    raw = self._bytes[offset + start * self._item : offset + stop * self._item]
    if raw.size != (stop - start) * self._item:
      raise errors.DatasetError(f'record {record} of a shard of {self._stream.name} could not be read whole')
    return np.frombuffer(raw.tobytes(), self._stream.dtype).reshape(stop - start, self._stream.width)
