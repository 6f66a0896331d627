"""A prepared dataset: the clip table and the streams that lie beside it.

DIR/clips.jsonl, index/    the clips, see `table`
DIR/streams.json           what each stream is, and what made it
DIR/<stream>/<version>/    TFRecord shards and an index, see `records`; also a TFDS dataset
DIR/rejected.jsonl         rows and streams that could not be prepared, with the reason
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from etils import epath

from v2meow_jax import errors, stores
from v2meow_jax.data import shards, table
from v2meow_jax.streams import Stream


class _Entry(msgspec.Struct):
  """What `streams.json` says of a stream."""

  name: str
  kind: str
  rate: str
  width: int
  codes: int
  version: str
  shards: dict[str, int]
  clips_a_shard: Annotated[int, msgspec.Meta(ge=1)]
  made_by: dict[str, Any]


def read_streams(directory: epath.PathLike) -> dict[str, dict]:
  """`streams.json`: stream name -> its settings, shard counts and what made it; empty where there is none."""
  path = epath.Path(directory) / 'streams.json'
  if not path.exists():
    return {}
  told = f'{path}: damaged; prepare the dataset again'
  with errors.translated(errors.DatasetError, told):
    entries = json.loads(path.read_bytes())
    for name, entry in msgspec.convert(entries, dict[str, _Entry], strict=True).items():
      if entry.name != name:
        raise ValueError(f'{name!r} is called {entry.name!r}')
    return entries


def fingerprint(directory: epath.PathLike, names: Collection[str] | None = None) -> str:
  """A hash of the clip table and of the named streams' descriptions, or all, without where the media lies."""
  streams = {name: entry for name, entry in read_streams(directory).items() if names is None or name in names}
  digest = hashlib.sha256(table.digest(directory).encode())
  digest.update(json.dumps(streams, sort_keys=True).encode())
  return digest.hexdigest()[:16]


def stream_of(entry: dict) -> Stream:
  """The stream that an entry of `streams.json` describes."""
  return Stream(entry['name'], entry['kind'], entry['rate'], entry['width'], entry['codes'])


def find_stream(directory: epath.PathLike, name: str) -> Stream:
  """The stream of a dataset that has this name.

  Raises:
    errors.DatasetError: there is none.
  """
  entry = read_streams(directory).get(name)
  if entry is None:
    raise errors.DatasetError(f'{directory}: there is no stream {name}; add it with v2meow prepare')
  return stream_of(entry)


class Dataset:
  """Reads crops of one split of a prepared dataset; safe to share between threads.

  Args:
    directory: of the dataset.
    split: `train` or `validation`.
    streams: those that are wanted, as the model is configured for them.
    may_lack: names of streams that need not be there; of one that is not, every clip has no elements.

  Raises:
    errors.DatasetError: a stream is missing or is not what the model is configured for.
  """

  def __init__(
    self, directory: epath.PathLike, split: str, streams: tuple[Stream, ...], may_lack: Sequence[str] = ()
  ):
    self.directory = epath.Path(directory)
    if not streams:
      raise errors.ConfigError(f'{directory}: no stream is asked for')
    self.streams = streams
    self.clips = table.ClipTable(self.directory, split)
    if not self.clips:
      way = (
        'evaluation needs one: prepare more sources, with a --validation_share above 0, or train without by '
        '--gin.train.eval_batches=None'
      )
      told = way if split == 'validation' else 'every source is in another one; prepare it with more sources'
      raise errors.DatasetError(f'{directory}: no clip is in split {split!r}; {told}')
    self.entries = read_streams(self.directory)
    self._readers: dict[str, shards.SplitReader] = {}
    open_files = stores.OpenFiles()
    for stream in streams:
      if stream.name in may_lack and stream.name not in self.entries:
        continue
      self._check(stream, split)
      entry = self.entries[stream.name]
      reader = shards.SplitReader(
        self.directory, stream, split, entry['shards'][split], entry['clips_a_shard'], open_files
      )
      if len(reader) != len(self.clips):
        raise errors.DatasetError(
          f'{self.directory}: the records of stream {stream.name} are not those of clips.jsonl; prepare it '
          'again'
        )
      self._readers[stream.name] = reader

  def _check(self, stream: Stream, split: str) -> None:
    if stream.name not in self.entries:
      have = ', '.join(sorted(self.entries)) or 'none'
      raise errors.DatasetError(
        f'{self.directory}: there is no stream {stream.name!r}, only {have}; add it with v2meow prepare'
      )
    if split not in self.entries[stream.name]['shards']:
      raise errors.DatasetError(
        f'{self.directory}: stream {stream.name!r} has no shards of split {split!r}; prepare it again'
      )
    found = stream_of(self.entries[stream.name])
    if found != stream:
      names = (f.name for f in dataclasses.fields(Stream))
      fields = [name for name in names if getattr(found, name) != getattr(stream, name)]
      told = ', '.join(f'{name} {getattr(found, name)}, not {getattr(stream, name)}' for name in fields)
      raise errors.DatasetError(
        f'{self.directory}: stream {stream.name!r} is not what the model takes: {told}'
      )

  def length(self, stream: Stream, clip: int) -> int:
    """Elements that a clip has of a stream; 0 where it could not be prepared."""
    reader = self._readers.get(stream.name)
    return reader.length(clip) if reader else 0

  def read(self, stream: Stream, clip: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Elements [n, width] of the clip with this number in the split."""
    reader = self._readers.get(stream.name)
    return reader.read(clip, start, stop) if reader else np.zeros((0, stream.width), stream.dtype)

  @property
  def at_once(self) -> int:
    """Examples that are read at the same time: many where each is a request to an object store."""
    return stores.AT_ONCE if stores.is_remote(str(self.directory)) else 1

  def identity(self, stream: Stream) -> dict | None:
    """What made a stream: encoder, settings, weights' hash; None where the dataset lacks it."""
    entry = self.entries.get(stream.name)
    return entry['made_by'] if entry else None
