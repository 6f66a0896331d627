"""Renders every row of a music manifest to a procedural video.

A manifest has one JSON object a line with at least `id`, which names the video, and `audio`, a path
taken from the manifest's folder; `events` names what is true of rendered music, which the video then
follows; all else in a row is kept. The folder gets ID.mp4 for every row,
manifest.jsonl with `video` and `"pairing": "procedural"` added, and rejected.jsonl with the rows
that could not be used and why. Videos that are there already are not rendered again.
"""

import concurrent.futures
import errno
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import av.error

from v2meow_jax import errors, files, manifests, names, terminal, workers
from v2meow_jax.data import visualizer

Row = dict[str, Any]
# The fault of the disk and not of the row, so that going on would only reject everything.
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def visualize_manifest(
  manifest: str | os.PathLike[str],
  out: str | os.PathLike[str],
  config: visualizer.VisualizerConfig,
  mux_audio: bool = True,
  workers: int = 1,
) -> tuple[int, int]:
  """Renders every row of a manifest; returns how many rows have their video and how many were rejected.

  Raises:
    errors.DatasetError: the manifest is missing, empty or the very file that would be written.
    OSError: the folder cannot be written or the disk is full.
  """
  source, folder = pathlib.Path(manifest).absolute(), pathlib.Path(out).absolute()
  if source.resolve() == (folder / 'manifest.jsonl').resolve():
    raise errors.DatasetError(f'{manifest}: the new manifest would replace this one; give another --out.')
  rows, rejected = _read(source, folder)
  folder.mkdir(parents=True, exist_ok=True)

  missing = [row for row in rows if not os.path.exists(row['video'])]
  jobs = [(row['audio'], row['video'], config, mux_audio, row.get('events')) for row in missing]
  with terminal.Progress() as progress:
    reasons = dict(progress.track(_work(jobs, workers), len(jobs), 'videos'))
  rejected += [_without_video(row, reasons[row['video']]) for row in rows if reasons.get(row['video'])]
  rows = [row for row in rows if not reasons.get(row['video'])]
  files.write_lines(folder / 'manifest.jsonl', rows)
  files.write_lines(folder / 'rejected.jsonl', rejected)
  return len(rows), len(rejected)


def _read(source: pathlib.Path, folder: pathlib.Path) -> tuple[list[Row], list[Row]]:
  """The rows of a manifest, completed as they will be written, and the rejected ones with a reason."""
  rows, seen = [], set()
  lines = manifests.read(source, manifests.MusicRow)
  for line in lines:
    if line.row is None:
      continue
    name = line.row.id
    why = names.fault(name)
    if why or name in seen:
      line.row, line.reason = None, f'the id {name!r} {why or "was used by an earlier row"}'
      continue
    seen.add(name)
    paths = {'audio': str(source.parent / line.row.audio), 'video': str(folder / f'{name}.mp4')}
    if line.row.events:
      paths['events'] = str(source.parent / line.row.events)
    rows.append(line.given | paths | {'pairing': 'procedural'})
  return rows, list(manifests.refused(lines))


def _work(jobs: list[tuple], count: int) -> Iterator[tuple[str, str | None]]:
  """Yields (video path, why it could not be made or None) as the jobs finish, in any order."""
  if count == 1 or len(jobs) < 2:
    yield from map(_attempt, jobs)
    return
  # Every file is one job, so a worker that also spread over cores would only slow the others down.
  for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ.setdefault(name, '1')
  with workers.pool(count) as pool:
    for future in concurrent.futures.as_completed([pool.submit(_attempt, job) for job in jobs]):
      yield future.result()


def _attempt(job: tuple) -> tuple[str, str | None]:
  """Renders one job; returns (video path, why it could not be made or None)."""
  audio_path, video, config, mux_audio, events = job
  try:
    visualizer.visualize(audio_path, video, config, mux_audio, events)
  except (errors.InputError, OSError, av.error.FFmpegError) as error:
    if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
      # A plain one, since those of the codec library do not survive the way between processes.
      raise OSError(error.errno, error.strerror, video) from None
    return video, str(error)
  return video, None


def _without_video(row: Row, reason: str | None) -> Row:
  kept = {key: value for key, value in row.items() if key not in ('video', 'pairing')}
  return {**kept, 'reason': reason}
