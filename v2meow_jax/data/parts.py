"""Runs encoders over the clips, part by part, in several processes or on many machines.

A part is a few clips of a split, for which every encoder's records are made together. Two that make the same
part do no harm: its file appears whole, and its index, by which it counts, last. A clip that an encoder fails
on gets an empty record in that stream, so that all streams keep the same records, and a line beside the part.
"""

import concurrent.futures
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from v2meow_jax import errors, files, stores, terminal, workers
from v2meow_jax.data import dataset, records, shards, table
from v2meow_jax.encoders import base
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

CLIPS_A_PART = 16


def require_tensorflow() -> None:
  """Raises `errors.ConfigError` where it is not installed."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  try:
    with terminal.hushed():  # it takes seconds to import, and tells of what it does not find
      import tensorflow  # noqa: F401
  except ImportError as error:
    raise errors.ConfigError(
      'preparing writes TFRecords and needs TensorFlow; install v2meow-jax with the extra "train"'
    ) from error


@dataclasses.dataclass(frozen=True)
class Part:
  """Clips of a split whose records are made together.

  Attributes:
    split: of the clips.
    number: of the part in the split.
    clips: their numbers in the split.
  """

  split: str
  number: int
  clips: range

  def path(self, directory: epath.PathLike, stream: Stream) -> epath.Path:
    """Where its records of a stream are kept until the stream is finished."""
    return records.part_path(directory, stream, self.split, self.number)


def parts_of(directory: epath.PathLike, clips_a_part: int = CLIPS_A_PART) -> list[Part]:
  """All parts of a dataset, from its table."""
  found = []
  for split in table.SPLITS:
    count = len(table.ClipTable(directory, split))
    starts = range(0, count, clips_a_part)
    found += [Part(split, n, range(at, min(at + clips_a_part, count))) for n, at in enumerate(starts)]
  return found


def needed(
  directory: epath.PathLike, encoder: Encoder, parts: Sequence[Part], clips_a_part: int
) -> list[Part]:
  """Parts of which a stream has to be made: all; once it is finished, those whose shard is damaged.

  Raises:
    errors.DatasetError: the stream is there already, made by something else.
  """
  entry = dataset.read_streams(directory).get(encoder.stream.name)
  if entry is None:
    return list(parts)
  if entry['made_by'] != json.loads(json.dumps(encoder.identity)):
    raise errors.DatasetError(
      f'{directory}: stream {encoder.stream.name!r} is there already, made by another encoder or other '
      'weights; use another directory, or delete that stream and its entry in streams.json'
    )
  broken = shards.broken(directory, encoder.stream, entry['shards'], entry['clips_a_shard'])
  size = entry['clips_a_shard']
  if broken and size % clips_a_part:
    raise errors.DatasetError(
      f'{directory}: stream {encoder.stream.name!r} has {size} clips a shard; mend it with '
      f'--clips_a_part={size}'
    )
  return [part for part in parts if part.clips.start // size in broken.get(part.split, ())]


def unmade(directory: epath.PathLike, stream: Stream, parts: Sequence[Part]) -> list[Part]:
  """Those that are not there."""
  there = stores.sizes(records.part_path(directory, stream, 'train', 0).parent)
  return [part for part in parts if records.index_path(part.path(directory, stream)).name not in there]


def stored(stream: Stream, elements: np.ndarray) -> np.ndarray:
  """Elements in the record's type.

  Raises:
    ValueError: some are not finite in it, or are no codes of the stream.
  """
  with np.errstate(over='ignore', invalid='ignore'):
    cast = elements.astype(stream.dtype)
  if stream.kind == 'tokens' and elements.size and not 0 <= elements.min() <= elements.max() < stream.codes:
    raise ValueError(
      f'{stream.name}: {elements.min()} to {elements.max()} are not all codes below {stream.codes}'
    )
  if not np.isfinite(elements).all() or not np.isfinite(cast).all():
    raise ValueError(f'{stream.name}: values that are not finite in {stream.dtype}')
  return cast


class _Maker:
  """Makes parts; one a process, so that an encoder is set up and compiled once in each."""

  def __init__(self, directory: epath.PathLike, encoders: Sequence[Encoder]):
    self._directory, self._encoders = epath.Path(directory), {e.stream.name: e for e in encoders}
    self._tables = {split: table.ClipTable(directory, split) for split in table.SPLITS}

  def make(self, job: tuple[Part, list[str]]) -> tuple[Part, list[dict]]:
    """(the part, what was rejected)."""
    part, names = job
    rejected: list[dict] = []
    clips = [self._tables[part.split][number] for number in part.clips]
    media = [MediaClip(clip.video, clip.audio, clip.start, clip.duration, clip.caption) for clip in clips]
    for name in names:
      stream, path = self._encoders[name].stream, part.path(self._directory, self._encoders[name].stream)
      rows, mine = [], []
      for clip, made in zip(clips, base.encode_clips(self._encoders[name], media), strict=True):
        elements, reason = _stored(stream, made)
        rows.append((clip.id, elements))
        if reason:
          mine.append({'id': clip.id, 'stream': name, 'reason': reason})
      if mine:
        files.write_lines(rejected_path(path), mine)
      records.write_part(path, stream, rows)
      rejected += mine
    return part, rejected


def _stored(stream: Stream, made: np.ndarray | Exception) -> tuple[np.ndarray, str]:
  """(elements in the record's type, why there are none)."""
  try:
    if isinstance(made, Exception):
      raise made
    return stored(stream, np.asarray(made)), ''
  except Exception as error:
    # Whatever a network or its library raises of one clip is not the end of the others.
    reason = (
      str(error) if isinstance(error, errors.MediaError | ValueError) else f'{type(error).__name__}: {error}'
    )
    return np.zeros((0, stream.width), stream.dtype), ' '.join(reason.split())[:500]


def rejected_path(part: epath.Path) -> epath.Path:
  """Where what a part rejects is kept until the dataset is finished."""
  return part.with_name(part.name + '.rejected.jsonl')


_maker: _Maker | None = None  # of a worker process


def _begin_worker(directory: str, encoders: Sequence[Encoder]) -> None:
  global _maker
  terminal.hush()
  require_tensorflow()
  _maker = _Maker(directory, encoders)


def _make(job: tuple[Part, list[str]]) -> tuple[Part, list[dict]]:
  assert _maker is not None
  return _maker.make(job)


def make_parts(
  directory: epath.PathLike,
  encoders: Sequence[Encoder],
  *,
  processes: int = 2,
  share: tuple[int, int] = (0, 1),
  clips_a_part: int = CLIPS_A_PART,
) -> list[dict]:
  """Makes the records of a share of the parts, where they are not there.

  Args:
    directory: with a clip table.
    encoders: one a stream.
    processes: that work at once.
    share: (i, n): every n-th part from the i-th on.
    clips_a_part: the same for all shares.

  Returns:
    What was rejected.

  Raises:
    errors.DatasetError: a stream is there already, made by something else.
  """
  directory = epath.Path(directory)
  parts = parts_of(directory, clips_a_part)
  mine = set(parts[share[0] :: share[1]])
  jobs: dict[Part, list[str]] = {}
  for encoder in encoders:
    wanted = needed(directory, encoder, parts, clips_a_part)
    if wanted:
      _begin(directory, encoder, clips_a_part)
    for part in unmade(directory, encoder.stream, wanted):
      if part in mine:
        jobs.setdefault(part, []).append(encoder.stream.name)
  rejected: list[dict] = []
  durations = {split: table.ClipTable(directory, split).columns['duration'] for split in table.SPLITS}
  hours = {part: durations[part.split][part.clips.start : part.clips.stop].sum() / 3600 for part in jobs}
  whole, done = sum(hours.values()), 0.0
  with terminal.Progress() as progress:
    if jobs:
      progress.update('parts', 0, len(jobs))
    for number, (part, rows) in enumerate(_results(directory, encoders, list(jobs.items()), processes), 1):
      rejected += rows
      done += hours[part]
      progress.update('parts', number, len(jobs), f'{done:.2f} of {whole:.2f} h of media')
  return rejected


def _results(
  directory: epath.Path, encoders: Sequence[Encoder], jobs: list[tuple[Part, list[str]]], processes: int
) -> Iterator[tuple[Part, list[dict]]]:
  """What each job gives, as they are done."""
  if processes <= 1 or not jobs:
    yield from map(_Maker(directory, encoders).make, jobs)
    return
  begin = functools.partial(_begin_worker, os.fspath(directory), encoders)
  with workers.pool(min(processes, len(jobs)), begin) as pool:
    futures = [pool.submit(_make, job) for job in jobs]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()


def _begin(directory: epath.Path, encoder: Encoder, clips_a_part: int) -> None:
  """Makes the folder of a stream's parts; drops what another encoder or size had left there."""
  folder = records.part_path(directory, encoder.stream, 'train', 0).parent
  folder.mkdir(parents=True, exist_ok=True)
  mark = folder / 'made_by.json'
  told = json.dumps({'made_by': encoder.identity, 'clips_a_part': clips_a_part}, sort_keys=True)
  if mark.exists():
    if mark.read_text() == told:
      return
    for old in folder.iterdir():
      old.unlink()
  elif encoder.stream.name not in dataset.read_streams(directory):
    # Shards of another encoder's, whose entry was deleted, could be as long as those that are made now.
    records.folder(directory, encoder.stream).rmtree(missing_ok=True)
  # Written before any part is: where there is no mark, others that begin now are not to be disturbed.
  files.write_text(mark, told)
