"""A prepared dataset: the clip table and the streams that lie beside it.

DIR/clips.jsonl            id, source, start, duration, split, video, audio, caption, licence a clip
DIR/streams.json           what each stream is, and what made it
DIR/<stream>/<version>/    TFRecord shards with offset indexes; also a TFDS dataset
DIR/rejected.jsonl         rows and streams that could not be prepared, with the reason
"""

import dataclasses
import hashlib
import json
from typing import Annotated, Any

import msgspec
import numpy as np
from etils import epath

from v2meow_jax import errors
from v2meow_jax.data import records
from v2meow_jax.streams import Stream

SPLITS = ('train', 'validation')
VERSION = '1.0.0'


@dataclasses.dataclass(frozen=True)
class Clip:
  """A row of the clip table; times in seconds within the media files."""

  id: str
  source: str
  start: float
  duration: float
  split: str
  video: str | None = None
  audio: str | None = None
  caption: str = ''
  licence: str = ''


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


def read_clips(directory: epath.PathLike) -> list[Clip]:
  """The clip table.

  Raises:
    errors.DatasetError: there is none, or a line of it is damaged.
  """
  path = epath.Path(directory) / 'clips.jsonl'
  if not path.exists():
    raise errors.DatasetError(
      f'{directory}: no clips.jsonl there; it is not a prepared dataset, see v2meow prepare'
    )
  try:
    return [msgspec.json.decode(line, type=Clip) for line in path.read_bytes().split(b'\n') if line.strip()]
  except (ValueError, RecursionError) as error:
    raise errors.DatasetError(f'{path}: not a table of clips ({error}); prepare the dataset again') from error


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


def fingerprint(directory: epath.PathLike) -> str:
  """A hash of the clip table and of `streams.json`, without where the media lies."""
  digest = hashlib.sha256()
  for clip in read_clips(directory):
    digest.update(f'{clip.id} {clip.start} {clip.duration} {clip.split}\n'.encode())
  digest.update(json.dumps(read_streams(directory), sort_keys=True).encode())
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


def shard_counts(clips: list[Clip], clips_a_shard: int) -> dict[str, int]:
  """Shards a split; the same for every stream of a dataset."""
  return {
    split: -(-sum(clip.split == split for clip in clips) // clips_a_shard)
    for split in SPLITS
    if any(clip.split == split for clip in clips)
  }


class Dataset:
  """Reads crops of one split of a prepared dataset; safe to share between threads.

  Args:
    directory: of the dataset.
    split: `train` or `validation`.
    streams: those that are wanted, as the model is configured for them.

  Raises:
    errors.DatasetError: a stream is missing or is not what the model is configured for.
  """

  def __init__(self, directory: epath.PathLike, split: str, streams: tuple[Stream, ...]):
    self.directory = epath.Path(directory)
    if not streams:
      raise errors.ConfigError(f'{directory}: no stream is asked for')
    self.streams = streams
    self.clips = [clip for clip in read_clips(self.directory) if clip.split == split]
    if not self.clips:
      way = (
        'evaluation needs one: prepare more sources, with a --validation_share above 0, or train without by '
        '--gin.train.eval_batches=None'
      )
      told = way if split == 'validation' else 'every source is in another one; prepare it with more sources'
      raise errors.DatasetError(f'{directory}: no clip is in split {split!r}; {told}')
    self.entries = read_streams(self.directory)
    self._readers: dict[str, list[records.ShardReader]] = {}
    for stream in streams:
      self._check(stream, split)
      count = self.entries[stream.name]['shards'][split]
      folder = self.directory / stream.name / VERSION
      self._readers[stream.name] = [
        records.ShardReader(records.shard_path(folder, stream, split, shard, count), stream)
        for shard in range(count)
      ]
      if sum(len(reader) for reader in self._readers[stream.name]) != len(self.clips):
        raise errors.DatasetError(
          f'{folder}: the records are not those of clips.jsonl; prepare stream {stream.name} again'
        )
    self.clips_a_shard = max(len(reader) for reader in self._readers[streams[0].name])

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
    shard, record = divmod(clip, self.clips_a_shard)
    return self._readers[stream.name][shard].length(record)

  def read(self, stream: Stream, clip: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Elements [n, width] of the clip with this number in the split."""
    shard, record = divmod(clip, self.clips_a_shard)
    return self._readers[stream.name][shard].read(record, start, stop)

  def identity(self, stream: Stream) -> dict:
    """What made a stream: encoder, settings, weights' hash."""
    return self.entries[stream.name]['made_by']
