"""How clips become records on one machine: read, encoded, and written, part by part.

Where there is no accelerator every worker process does all of a part: then a core is the device, and nothing
travels. Where there is one, workers read and decode, this process encodes on all its devices, and no more
parts are read ahead than memory is meant for. Either way the records are the same.
"""

import collections
import concurrent.futures
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from v2meow_jax import errors, files, runtime, terminal, workers
from v2meow_jax.data import parts as parts_lib
from v2meow_jax.data import records, table
from v2meow_jax.data.parts import Part
from v2meow_jax.encoders import base
from v2meow_jax.encoders.base import DeviceEncoder, Encoder
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

Job = tuple[Part, list[str]]
Done = tuple[Part, list[dict]]
SHARED_BYTES = 2**28  # of pictures of a part that are kept for several encoders
AHEAD_BYTES = 2**32  # of what is read and waits for a device


def clips_of(part: Part, tables: dict[str, table.ClipTable], encoders: Sequence[Encoder]) -> list[MediaClip]:
  """The clips of a part, whose video is decoded once for all encoders if their pictures are not too many."""
  rows = [tables[part.split][number] for number in part.clips]
  wanted = tuple(reading for encoder in encoders for reading in base.readings(encoder))
  seconds = sum(row.duration for row in rows)
  size = sum(3 * one.size[0] * one.size[1] * float(one.rate) * seconds for one in set(wanted) if one.size)
  shared = wanted if size <= SHARED_BYTES else ()
  return [MediaClip(row.video, row.audio, row.start, row.duration, row.caption, shared) for row in rows]


class Reader:
  """The first half of the work on parts: what needs no device.

  Args:
    directory: of the dataset.
    encoders: all that there are.
  """

  def __init__(self, directory: epath.PathLike, encoders: Sequence[Encoder]):
    self._encoders = {encoder.stream.name: encoder for encoder in encoders}
    self._tables = {split: table.ClipTable(directory, split) for split in table.SPLITS}

  def read(self, job: Job) -> dict[str, list[Any]]:
    """By stream, for each clip what was read, or made by an encoder that has no device, or an exception."""
    part, names = job
    encoders = [self._encoders[name] for name in names]
    clips = clips_of(part, self._tables, encoders)
    return {encoder.stream.name: _read(encoder, clips) for encoder in encoders}


def _read(encoder: Encoder, clips: Sequence[MediaClip]) -> list[Any]:
  if not isinstance(encoder, DeviceEncoder):
    return base.encode_clips(encoder, clips)
  found: list[Any] = []
  for clip in clips:
    try:
      found.append(encoder.read_clip(clip))
    except errors.ConfigError:
      raise
    except Exception as error:  # of whatever library reads it
      found.append(_portable(error))
  return found


def _portable(error: Exception) -> Exception:
  """An exception that any process can unpickle, and that becomes the same reason."""
  return error if isinstance(error, errors.InputError) else ValueError(f'{type(error).__name__}: {error}')


class Writer:
  """The second half: encodes what was read, and writes records. Arguments as `Reader`'s."""

  def __init__(self, directory: epath.PathLike, encoders: Sequence[Encoder]):
    self._directory = epath.Path(directory)
    self._encoders = {encoder.stream.name: encoder for encoder in encoders}
    self._tables = {split: table.ClipTable(directory, split) for split in table.SPLITS}

  def write(self, job: Job, read: dict[str, list[Any]]) -> Done:
    """Writes the records of a part of which everything was read; (the part, what was rejected)."""
    part, names = job
    clips = clips_of(part, self._tables, ())

    def made(encoder: Encoder) -> Sequence[Any]:
      mine = read[encoder.stream.name]
      return encoder.encode_read(clips, mine) if isinstance(encoder, DeviceEncoder) else mine

    return self._written(part, names, made)

  def make(self, job: Job) -> Done:
    """Reads, encodes and writes a part; as `write`."""
    part, names = job
    encoders = [self._encoders[name] for name in names]
    clips = clips_of(part, self._tables, encoders)
    return self._written(part, names, lambda encoder: base.encode_clips(encoder, clips))

  def _written(self, part: Part, names: Sequence[str], made: Callable[[Encoder], Sequence[Any]]) -> Done:
    ids = [self._tables[part.split][number].id for number in part.clips]
    rejected: list[dict] = []
    for name in names:
      encoder = self._encoders[name]
      path = part.path(self._directory, encoder.stream)
      rows, mine = [], []
      for clip_id, elements in zip(ids, made(encoder), strict=True):
        elements, reason = _stored(encoder.stream, elements)
        rows.append((clip_id, elements))
        if reason:
          mine.append({'id': clip_id, 'stream': name, 'reason': reason})
      if mine:
        files.write_lines(parts_lib.rejected_path(path), mine)
      records.write_part(path, encoder.stream, rows)
      rejected += mine
    return part, rejected


def _stored(stream: Stream, made: np.ndarray | Exception) -> tuple[np.ndarray, str]:
  """(elements in the record's type, why there are none)."""
  try:
    if isinstance(made, Exception):
      raise made
    return parts_lib.stored(stream, np.asarray(made)), ''
  except Exception as error:
    # Whatever a network or its library raises of one clip is not the end of the others.
    reason = (
      str(error) if isinstance(error, errors.MediaError | ValueError) else f'{type(error).__name__}: {error}'
    )
    return np.zeros((0, stream.width), stream.dtype), ' '.join(reason.split())[:500]


_half: Any = None  # Reader or Writer of a worker process


def _begin_whole(directory: str, encoders: Sequence[Encoder]) -> None:
  global _half
  terminal.hush()
  parts_lib.require_tensorflow()
  runtime.set_up()
  _half = Writer(directory, encoders)


def _begin_reader(directory: str, encoders: Sequence[Encoder]) -> None:
  global _half
  terminal.hush()
  import jax

  jax.config.update('jax_platforms', 'cpu')  # the devices are the encoding process's
  _half = Reader(directory, encoders)


def _make(job: Job) -> Done:
  return _half.make(job)


def _read_job(job: Job) -> dict[str, list[Any]]:
  return _half.read(job)


def local(
  directory: epath.PathLike,
  encoders: Sequence[Encoder],
  jobs: Sequence[Job],
  processes: int,
  apart: bool | None = None,
) -> Iterator[Done]:
  """What each job gives, as they are done, on this machine.

  Args:
    directory: of the dataset.
    encoders: one a stream.
    jobs: parts and the streams that are to be made of each.
    processes: that work at once.
    apart: whether reading and encoding are done by different processes; None: where there is an accelerator.
  """
  if not jobs:
    return
  if apart is None:
    apart = processes > 1 and any(isinstance(one, DeviceEncoder) for one in encoders) and _accelerated()
  begin = _begin_reader if apart else _begin_whole
  if processes <= 1 and not apart:
    yield from map(Writer(directory, encoders).make, jobs)
    return
  with workers.pool(
    min(processes, len(jobs)), functools.partial(begin, os.fspath(directory), encoders)
  ) as pool:
    if apart:
      yield from _apart(pool, Writer(directory, encoders), jobs, ahead(directory, encoders, jobs, processes))
      return
    futures = [pool.submit(_make, job) for job in jobs]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()


def _apart(
  pool: concurrent.futures.Executor, writer: Writer, jobs: Sequence[Job], most: int
) -> Iterator[Done]:
  """Parts are encoded in their order, while at most `most` others are read."""
  waiting: collections.deque = collections.deque()
  coming = iter(jobs)
  while True:
    while len(waiting) < most and (job := next(coming, None)) is not None:
      waiting.append((job, pool.submit(_read_job, job)))
    if not waiting:
      return
    job, future = waiting.popleft()
    yield writer.write(job, future.result())


def ahead(directory: epath.PathLike, encoders: Sequence[Encoder], jobs: Sequence[Job], processes: int) -> int:
  """Parts that may be read before they are encoded: to keep all processes busy, if they fit into memory."""
  size = max(bytes_of(directory, encoders, job) for job in jobs)
  return max(1, min(2 * processes, int(AHEAD_BYTES // max(size, 1))))


def bytes_of(directory: epath.PathLike, encoders: Sequence[Encoder], job: Job) -> float:
  """What is read of a part for encoders with a device, at most."""
  part, names = job
  columns = table.ClipTable(directory, part.split).columns
  seconds = float(columns['duration'][part.clips.start : part.clips.stop].sum())
  size = 0.0
  for encoder in encoders:
    if encoder.stream.name in names and isinstance(encoder, DeviceEncoder):
      told = base.readings(encoder)
      # Flow has eight bytes a pixel; of sound, 48 kHz are the most that is asked for.
      size += seconds * sum(8 * one.size[0] * one.size[1] * float(one.rate) for one in told if one.size)
      size += 0 if told else seconds * 4 * 48000
  return size


def _accelerated() -> bool:
  import jax

  return jax.default_backend() != 'cpu'
