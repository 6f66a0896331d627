"""Renders music to procedural videos: one file, or every row of a manifest.

  python -m v2meow_jax.visualize --audio song.ogg --out song.mp4
  python -m v2meow_jax.visualize --manifest music.jsonl --out videos --workers 4

A manifest has one JSON object a line with at least `id`, which names the video, and `audio`, a path
taken from the manifest's folder; all else in a row is kept. The folder `--out` gets ID.mp4 for every
row, manifest.jsonl with `video` and `"pairing": "procedural"` added, and rejected.jsonl with the rows
that could not be used and why. Videos that are there already are not rendered again.
"""

import argparse
import concurrent.futures
import errno
import json
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import av.error
import rich.progress

from v2meow_jax import cli, errors, files
from v2meow_jax.data import visualizer

Row = dict[str, Any]
# The fault of the disk and not of the row, so that going on would only reject everything.
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns 0, or 1 if no row of a manifest could be used.

  Raises errors.InputError if the audio or the manifest cannot be used, OSError if the disk fails.
  """
  args = _parser().parse_args(argv)
  config = visualizer.VisualizerConfig(args.frame_rate, args.width, args.height, args.seed)
  if args.audio:
    visualizer.visualize(args.audio, args.out, config, not args.no_audio)
    print(f'{args.out}: a procedural video of {args.audio}')
    return 0
  done, rejected = visualize_manifest(args.manifest, args.out, config, not args.no_audio, args.workers)
  print(f'{args.out}: {done} videos, {rejected} rows rejected' + ' (see rejected.jsonl)' * (rejected > 0))
  return 0 if done else 1


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
  if not source.is_file():
    raise errors.DatasetError(f'{manifest}: there is no such manifest; check the path.')
  if source.resolve() == (folder / 'manifest.jsonl').resolve():
    raise errors.DatasetError(f'{manifest}: the new manifest would replace this one; give another --out.')
  rows, rejected = _read(source, folder)
  if not rows and not rejected:
    raise errors.DatasetError(f'{manifest}: the manifest has no rows.')
  folder.mkdir(parents=True, exist_ok=True)

  jobs = [(row['audio'], row['video'], config, mux_audio) for row in rows if not os.path.exists(row['video'])]
  reasons = dict(_track(_work(jobs, workers), len(jobs)))
  rejected += [_without_video(row, reasons[row['video']]) for row in rows if reasons.get(row['video'])]
  rows = [row for row in rows if not reasons.get(row['video'])]
  files.write_lines(folder / 'manifest.jsonl', rows)
  files.write_lines(folder / 'rejected.jsonl', rejected)
  return len(rows), len(rejected)


def _read(source: pathlib.Path, folder: pathlib.Path) -> tuple[list[Row], list[Row]]:
  """The rows of a manifest, completed as they will be written, and the rejected ones with a reason."""
  rows, rejected, seen = [], [], set()
  for number, line in enumerate(source.read_bytes().splitlines(), 1):
    if not line.strip():
      continue
    row: Any = None
    try:
      row = json.loads(line)
      name = _checked_id(row)
      if name in seen:
        raise errors.DatasetError(f'the id {name!r} was used by an earlier row.')
    except ValueError as error:  # also what json and the decoding of text raise
      kept = row if isinstance(row, dict) else {'text': line.decode('utf-8', 'replace')}
      rejected.append({**kept, 'line': number, 'reason': str(error)})
      continue
    seen.add(name)
    audio_path, video = source.parent / row['audio'], folder / f'{name}.mp4'
    rows.append({**row, 'audio': str(audio_path), 'video': str(video), 'pairing': 'procedural'})
  return rows, rejected


def _checked_id(row: Any) -> str:
  """The id of a row, after the row is known to be usable; raises errors.DatasetError."""
  if not isinstance(row, dict):
    raise errors.DatasetError('the line is not a JSON object.')
  for key in ('id', 'audio'):
    if not isinstance(row.get(key), str) or not row[key].strip():
      raise errors.DatasetError(f'{key!r} is missing or not a text.')
  name = row['id']
  if (
    name.startswith('.') or any(c in '/\\:' or not c.isprintable() for c in name) or len(name.encode()) > 200
  ):
    raise errors.DatasetError(f'the id {name!r} cannot name a file.')
  return name


def _work(jobs: list[tuple], workers: int) -> Iterator[tuple[str, str | None]]:
  """Yields (video path, why it could not be made or None) as the jobs finish, in any order."""
  if workers == 1 or len(jobs) < 2:
    yield from map(_attempt, jobs)
    return
  # Every file is one job, so a worker that also spread over cores would only slow the others down.
  for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
    os.environ.setdefault(name, '1')
  pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'))
  try:
    for future in concurrent.futures.as_completed([pool.submit(_attempt, job) for job in jobs]):
      yield future.result()
  finally:
    pool.shutdown(cancel_futures=True)


def _attempt(job: tuple) -> tuple[str, str | None]:
  """Renders one job; returns (video path, why it could not be made or None)."""
  audio_path, video, config, mux_audio = job
  try:
    visualizer.visualize(audio_path, video, config, mux_audio)
  except (errors.InputError, OSError, av.error.FFmpegError) as error:
    if isinstance(error, OSError) and error.errno in _DISK_FAULTS:
      # A plain one, since those of the codec library do not survive the way between processes.
      raise OSError(error.errno, error.strerror, video) from None
    return video, str(error)
  return video, None


def _track(results: Iterable[tuple[str, str | None]], total: int) -> Iterator[tuple[str, str | None]]:
  """Passes results on under a progress bar."""
  columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
  with rich.progress.Progress(*columns) as progress:
    yield from progress.track(results, total=total, description='Rendering')


def _without_video(row: Row, reason: str | None) -> Row:
  kept = {key: value for key, value in row.items() if key not in ('video', 'pairing')}
  return {**kept, 'reason': reason}


def _parser() -> argparse.ArgumentParser:
  default = visualizer.VisualizerConfig()
  parser = argparse.ArgumentParser(
    'v2meow visualize', description='Render music to procedural videos, which are not real video.'
  )
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--audio', help='one audio file')
  source.add_argument('--manifest', help='a JSON Lines file with id and audio in every row')
  parser.add_argument('--out', required=True, help='the mp4 for --audio, the folder for --manifest')
  parser.add_argument('--workers', type=_positive, default=1, help='processes, for --manifest')
  parser.add_argument('--seed', type=int, default=default.seed)
  parser.add_argument('--frame_rate', type=int, default=default.frame_rate, help='frames a second')
  parser.add_argument('--width', type=int, default=default.width, help='pixels, even')
  parser.add_argument('--height', type=int, default=default.height, help='pixels, even')
  parser.add_argument('--no_audio', action='store_true', help='leave the audio out of the videos')
  return parser


def _positive(text: str) -> int:
  if (value := int(text)) < 1:
    raise argparse.ArgumentTypeError('must be 1 or more')
  return value


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
