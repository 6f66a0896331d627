"""Reading records of one split of a stream by their number."""

import concurrent.futures
import os

import numpy as np
from etils import epath
from jaxtyping import Int64, Shaped

from v2meow_jax import errors, files, stores
from v2meow_jax.data import records
from v2meow_jax.streams import Stream

AT_ONCE = 32  # requests under way where indexes lie beside shards


class SplitReader:
  """Random access to the records of a split: ranges of its shards, of which few are open at once.

  Args:
    directory: of the dataset.
    stream: whose elements these are.
    split: `train` or `validation`.
    shards: their number.
    clips_a_shard: records in each but the last.
    open_files: shared with other streams.

  Raises:
    errors.DatasetError: shards or index are missing or damaged, or do not belong together.
  """

  def __init__(
    self,
    directory: epath.PathLike,
    stream: Stream,
    split: str,
    shards: int,
    clips_a_shard: int,
    open_files: stores.OpenFiles,
  ):
    self._folder = records.folder(directory, stream)
    self._stream, self._clips_a_shard, self._files = stream, clips_a_shard, open_files
    # Made once: a path is put together in the time of several reads.
    self._paths = [
      os.fspath(records.shard_path(self._folder, stream, split, shard, shards)) for shard in range(shards)
    ]
    self._item = stream.dtype.itemsize * stream.width
    self._index = read_index(self._folder, stream, split, shards)
    count = -(-len(self._index) // clips_a_shard)
    if count != shards:
      raise errors.DatasetError(
        f'{self._folder}: the index of split {split} has {len(self._index)} records, which are not those of '
        f'{shards} shards; prepare the stream again'
      )
    for path, reason in faults(self._folder, stream, split, self._index, clips_a_shard).values():
      raise errors.DatasetError(f'{path}: {reason}; prepare the stream again')

  def __len__(self) -> int:
    return len(self._index)

  def length(self, record: int) -> int:
    """Elements of a record."""
    return int(self._index[record, 1])

  def read(self, record: int, start: int = 0, stop: int | None = None) -> Shaped[np.ndarray, 'n width']:
    """Elements `start` to `stop` of a record, clipped to what there is.

    Raises:
      errors.DatasetError: the shard is shorter than it was when it was opened.
    """
    offset, length = (int(value) for value in self._index[record])
    start = min(max(start, 0), length)
    stop = length if stop is None else min(max(stop, start), length)
    path = self._paths[record // self._clips_a_shard]
    raw = self._files.read(path, offset + start * self._item, offset + stop * self._item)
    if len(raw) != (stop - start) * self._item:
      raise errors.DatasetError(f'{path}: record {record} could not be read whole; prepare the stream again')
    return np.frombuffer(raw, self._stream.dtype).reshape(stop - start, self._stream.width)


def _read_index(path: epath.Path) -> Int64[np.ndarray, 'n 2']:
  told = f'{path}: the index is missing or damaged; prepare the stream again'
  try:
    with errors.translated(errors.DatasetError, told):
      index = files.read_array(path)
      if index.dtype != np.int64 or index.ndim != 2 or index.shape[1] != 2:
        raise ValueError(f'an index of {index.dtype} {index.shape}')
      return index
  except FileNotFoundError as error:
    raise errors.DatasetError(told) from error


def read_index(folder: epath.Path, stream: Stream, split: str, shards: int) -> Int64[np.ndarray, 'n 2']:
  """The index of a split; datasets of earlier versions have it in pieces, beside the shards.

  Raises:
    errors.DatasetError: it is missing or damaged.
  """
  path = records.split_index_path(folder, stream, split)
  if path.exists():
    return _read_index(path)
  paths = [records.shard_path(folder, stream, split, shard, shards) for shard in range(shards)]
  with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
    pieces = list(pool.map(_read_index, map(records.index_path, paths)))
  return np.concatenate(pieces) if pieces else np.zeros((0, 2), np.int64)


def faults(
  folder: epath.Path, stream: Stream, split: str, index: Int64[np.ndarray, 'n 2'], clips_a_shard: int
) -> dict[int, tuple[epath.Path, str]]:
  """Shard -> its path and what is wrong with it, of those that are damaged."""
  if not len(index):
    return {}
  # One listing tells of all shards whether they are there and how long.
  sizes = stores.sizes(folder)
  starts = np.arange(0, len(index), clips_a_shard)
  ends = index[:, 0] + index[:, 1] * (stream.dtype.itemsize * stream.width)
  furthest, lowest = np.maximum.reduceat(ends, starts), np.minimum.reduceat(index.min(1), starts)
  found = {}
  for shard, (end, least) in enumerate(zip(furthest, lowest, strict=True)):
    path = records.shard_path(folder, stream, split, shard, len(starts))
    if path.name not in sizes:
      found[shard] = path, 'the shard is missing'
    elif least < 0 or end > sizes[path.name]:
      found[shard] = path, 'the file is shorter than its index says'
  return found


def broken(
  directory: epath.PathLike, stream: Stream, shards: dict[str, int], clips_a_shard: int
) -> dict[str, set[int]]:
  """Split -> numbers of the damaged shards of a finished stream; all, where it has no index."""
  folder, found = records.folder(directory, stream), {}
  for split, count in shards.items():
    try:
      index = read_index(folder, stream, split, count)
    except errors.DatasetError:
      found[split] = set(range(count))
    else:
      found[split] = set(faults(folder, stream, split, index, clips_a_shard))
  return {split: numbers for split, numbers in found.items() if numbers}
