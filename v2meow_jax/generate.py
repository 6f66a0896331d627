"""`v2meow generate`: music for videos, from a bundle."""

import argparse
import dataclasses
import os
import pathlib
import sys
import time
from typing import TYPE_CHECKING, Any

from v2meow_jax import cli, compiled, errors, files

if TYPE_CHECKING:
  import numpy as np

  from v2meow_jax.generation.pipeline import Generated, Pipeline
  from v2meow_jax.generation.request import Request

OPTIONS = (
  ('temperature', float, '0: the likeliest token'),
  ('top_k', int, '0: all tokens'),
  ('top_p', float, '1: all tokens'),
  ('overlap', float, 'share of a window carried over from the one before'),
)


@dataclasses.dataclass(frozen=True)
class Task:
  """A request, and the name of its results."""

  name: str
  request: 'Request'


def main(argv: list[str] | None = None) -> int:
  """Writes each video with generated music (.mp4), the music alone (.wav), and a picture of both (.png)."""
  parser = argparse.ArgumentParser(prog='v2meow generate', description=main.__doc__)
  parser.add_argument(
    'video',
    type=pathlib.Path,
    nargs='*',
    help='videos, folders of videos, or manifests (.jsonl); see docs/generation.md',
  )
  parser.add_argument('--bundle', type=pathlib.Path, required=True, help='what v2meow export wrote')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('out'), help='folder of the results')
  parser.add_argument('--prompt', help='what the music should be like; with or without a video')
  parser.add_argument('--style', type=pathlib.Path, help='a recording whose style the music should have')
  parser.add_argument('--begin', type=pathlib.Path, help='a recording that the music begins with')
  parser.add_argument('--begin_seconds', type=float, help='how much of it; all by default')
  parser.add_argument('--seed', type=int, default=0, help='same seed, video, bundle and machine: same bits')
  parser.add_argument('--duration', type=float, help='seconds from the start of the video; all by default')
  for name, kind, text in OPTIONS:
    told = f'{text}; {kind.__name__}, or STAGE={kind.__name__},...'
    parser.add_argument(f'--{name}', default='', help=told)
  parser.add_argument(
    '--guidance',
    default='',
    help='GROUP=SCALE,... for the first stage, or STAGE:GROUP=SCALE; groups: video, style',
  )
  parser.add_argument('--loudness', type=float, help='LUFS of the music; -16 by default')
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the stages')
  parser.add_argument('--rows', type=int, default=16, help='most windows decoded at once')
  parser.add_argument('--clips', type=int, default=4, help='videos decoded side by side')
  parser.add_argument('--clap', help='folder or id of the CLAP model, where not the one in the bundle')
  parser.add_argument('--resume', action='store_true', help='pass over videos whose results are complete')
  parser.add_argument(
    '--stream', action='store_true', help='one video: the music as WAV to standard output, as it is made'
  )
  args = parser.parse_args(argv)
  if args.clips < 1:
    raise errors.ConfigError(f'--clips: {args.clips} is not a positive number')
  began = time.perf_counter()
  tasks = read_tasks(args)
  if args.stream and len(tasks) != 1:
    raise errors.ConfigError(f'--stream: one video can be streamed, not {len(tasks)}')
  failures: dict[str, str] = {}
  # Before the model is loaded: the answer to a wrong file should be quick.
  good = [task for task in tasks if _readable(task, failures, alone=len(tasks) == 1)]
  _check_places(args.out, good)
  compiled.keep()
  from v2meow_jax import bundle
  from v2meow_jax.generation import results
  from v2meow_jax.media import loudness

  target = loudness.MUSIC if args.loudness is None else args.loudness
  loaded = bundle.load(args.bundle)
  pipeline = loaded.pipeline(dtype=args.dtype, rows=args.rows, clap=args.clap)
  sampling = _sampling(args, {runner.stage.name: runner.sampling for runner in pipeline.stages})
  about = {
    task.name: results.describe(task.request, loaded.digest, sampling, args.dtype, target) for task in good
  }
  done = [task for task in good if args.resume and results.complete(args.out, task.name, about[task.name])]
  todo = [task for task in good if task not in done]
  if done:
    _tell(f'{len(done)} of {len(good)} are complete already')
  if todo:
    _tell(str(pipeline.estimate([task.request for task in todo[: args.clips]], sampling)))
  load_seconds = time.perf_counter() - began
  if args.stream:
    return _stream(pipeline, tasks[0].request, sampling, target)
  args.out.mkdir(parents=True, exist_ok=True)
  for at in range(0, len(todo), args.clips):
    group = todo[at : at + args.clips]
    for made, task in zip(
      _generate(pipeline, group, sampling, failures, len(tasks) == 1), group, strict=True
    ):
      if made is None:
        continue
      writing = time.perf_counter()
      paths = results.write(
        args.out, task.name, pipeline, made, task.request, about[task.name], target=target
      )
      seconds = {'load': load_seconds, **made.seconds, 'write': time.perf_counter() - writing}
      for path in paths:
        print(path)
      print('  '.join(f'{name} {value:.1f} s' for name, value in seconds.items()))
      print(f'{len(made.audio) / made.sample_rate:.1f} s of music in {time.perf_counter() - began:.1f} s')
  for message in failures.values():
    print(f'v2meow: {" ".join(message.split())}', file=sys.stderr)
  if failures:
    print(f'v2meow: {len(failures)} of {len(tasks)} videos got no music', file=sys.stderr)
  return 2 if failures else 0


def _tell(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


def read_tasks(args: argparse.Namespace) -> list[Task]:
  """What is asked for, in order; every task with a name of its own.

  Raises:
    errors.ConfigError: nothing to be done, or two results of one name.
    errors.DatasetError: a manifest that cannot be read.
  """
  from v2meow_jax.generation.request import Request
  from v2meow_jax.media import probe

  shared = {
    'prompt': args.prompt,
    'style': args.style,
    'beginning': args.begin,
    'beginning_seconds': args.begin_seconds,
    'seed': args.seed,
    'duration': args.duration,
  }
  tasks = []
  for path in args.video:
    if path.is_dir():
      tasks += [Task(video.stem, Request(video, **shared)) for video in probe.videos_in(path)]
    elif path.suffix == '.jsonl':
      tasks += _manifest(path, shared)
    else:
      tasks.append(Task(path.stem, Request(path, **shared)))
  if not args.video:
    if args.prompt is None and args.style is None and args.begin is None:
      raise errors.ConfigError(
        'name a video, or say with --prompt and --duration what the music should be like'
      )
    tasks = [Task('music', Request(None, **shared))]
  names = [task.name for task in tasks]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise errors.ConfigError(f'two results would be called {twice[0]!r}; name them by "name" in a manifest')
  return tasks


def _manifest(path: pathlib.Path, shared: dict[str, Any]) -> list[Task]:
  """Tasks of JSON lines; paths are relative to the manifest, and a line's values go before the options'."""
  from v2meow_jax.generation.request import Request

  try:
    rows = files.read_lines(path)
  except (ValueError, FileNotFoundError) as error:
    raise errors.DatasetError(f'{path}: missing or not JSON lines ({error})') from error
  fields = {field.name for field in dataclasses.fields(Request)}
  tasks = []
  for number, row in enumerate(rows, 1):
    unknown = set(row) - fields - {'name'} if isinstance(row, dict) else {'?'}
    if unknown:
      raise errors.DatasetError(f'{path}, line {number}: {", ".join(sorted(unknown))} is not known here')
    settings = shared | {key: value for key, value in row.items() if key != 'name'}
    for key in ('video', 'style', 'beginning'):
      if row.get(key):
        settings[key] = path.parent / row[key]
    try:
      wanted = Request(**settings)
    except (TypeError, errors.InputError) as error:
      raise errors.DatasetError(f'{path}, line {number}: {error}') from error
    name = str(
      row.get('name') or (pathlib.Path(row['video']).stem if row.get('video') else f'music_{number}')
    )
    if pathlib.PurePath(name).name != name:
      raise errors.DatasetError(f'{path}, line {number}: {name!r} is no name for a file')
    tasks.append(Task(name, wanted))
  return tasks


def _readable(task: Task, failures: dict[str, str], alone: bool) -> bool:
  try:
    _ = task.request.seconds
  except errors.InputError as error:
    if alone:
      raise
    failures[task.name] = str(error)
    return False
  return True


def _check_places(out: pathlib.Path, tasks: list[Task]) -> None:
  """Raises `errors.ConfigError` where a result would take the place of something that is read."""
  from v2meow_jax.generation import results

  given = {}
  for task in tasks:
    for path in (task.request.video, task.request.style, task.request.beginning):
      if path is not None and os.path.exists(path):
        status = os.stat(path)
        given[status.st_dev, status.st_ino] = path
  for task in tasks:
    for suffix in results.SUFFIXES:
      path = out / f'{task.name}.{suffix}'
      if path.exists() and (path.stat().st_dev, path.stat().st_ino) in given:
        raise errors.ConfigError(f'--out: {path} is one of the files that are read; name another folder')


def _generate(
  pipeline: 'Pipeline', group: list[Task], sampling: dict, failures: dict[str, str], alone: bool
) -> list['Generated | None']:
  """What was made of each; where one of several spoils it for all, each is tried alone."""

  stages = {runner.stage.name for runner in pipeline.stages}

  def progress(name: str, done: int, total: int) -> None:
    _tell(f'{name}: {"window " if name in stages else ""}{done} of {total}')

  try:
    return list(
      pipeline.generate_batch([task.request for task in group], sampling=sampling, progress=progress)
    )
  except errors.InputError as error:
    if alone or isinstance(error, errors.ConfigError | errors.MemoryExhausted):
      raise
    if len(group) == 1:
      failures[group[0].name] = str(error)
      return [None]
  return [made for task in group for made in _generate(pipeline, [task], sampling, failures, alone)]


def _stream(pipeline: 'Pipeline', wanted: 'Request', sampling: dict, target: float) -> int:
  """Writes WAV to standard output; the first block's loudness sets the gain of all."""
  from v2meow_jax.media import audio

  began, gain, out = time.perf_counter(), None, sys.stdout.buffer
  for block in pipeline.stream_request(wanted, sampling=sampling):
    if gain is None:
      _tell(f'first audio after {time.perf_counter() - began:.1f} s')
      gain = _gain(block, pipeline.codec.sample_rate, target)
      out.write(audio.stream_header(block.shape[1], pipeline.codec.sample_rate))
    out.write(audio.pcm(gain * block))
    out.flush()
  _tell(f'{wanted.seconds:.1f} s of music in {time.perf_counter() - began:.1f} s')
  return 0


def _gain(block: 'np.ndarray', rate: int, target: float) -> float:
  from v2meow_jax.media import loudness

  # What follows may be louder: half the range is left to it.
  scaled = loudness.normalize_loudness(block, rate, target, peak_dbfs=-7.0)
  at = abs(block).argmax()
  return float(scaled.flat[at] / block.flat[at]) if block.flat[at] else 1.0


def _sampling(args: argparse.Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
  """The bundle's sampling by stage, with what the command line changes."""
  chosen = dict(defaults)

  def stages_of(option: str, stage: str) -> list[str]:
    if stage and stage not in chosen:
      raise errors.ConfigError(f'--{option}: the bundle has no stage {stage!r}; it has {", ".join(chosen)}')
    return [stage] if stage else list(chosen)

  def number_of(option: str, kind: type, value: str):
    try:
      return kind(value)
    except ValueError as error:
      raise errors.ConfigError(f'--{option}: {value!r} is not a number') from error

  for option, kind, _ in OPTIONS:
    for part in filter(None, getattr(args, option).split(',')):
      stage, _, value = part.rpartition('=')
      for name in stages_of(option, stage):
        chosen[name] = dataclasses.replace(chosen[name], **{option: number_of(option, kind, value)})
  for part in filter(None, args.guidance.split(',')):
    place, separator, value = part.partition('=')
    stage, _, group = place.rpartition(':')
    if not separator or not group:
      raise errors.ConfigError(f'--guidance: {part!r} is not GROUP=SCALE or STAGE:GROUP=SCALE')
    name = stages_of('guidance', stage)[0]
    scales = dict(chosen[name].guidance) | {group: number_of('guidance', float, value)}
    chosen[name] = dataclasses.replace(chosen[name], guidance=tuple(scales.items()))
  return chosen


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
