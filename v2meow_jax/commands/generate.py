"""`v2meow generate`: music for videos, from a bundle."""

import argparse
import pathlib
import sys
import time

from v2meow_jax import bundles, errors, names, painter, runtime, terminal
from v2meow_jax.commands import network_options
from v2meow_jax.generation import options, results, streaming, tasks
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.session import Session
from v2meow_jax.media import loudness


def main(argv: list[str]) -> int:
  """Writes each video with generated music (.mp4), the music alone (.wav), and a picture of both (.png)."""
  parser = argparse.ArgumentParser(prog='v2meow generate', description=main.__doc__)
  parser.add_argument(
    'video',
    type=terminal.local_path,
    nargs='*',
    help='videos, folders of videos, or manifests (.jsonl); see docs/generation.md',
  )
  parser.add_argument('--bundle', type=terminal.any_path, required=True, help='what v2meow export wrote')
  parser.add_argument(
    '--out', type=terminal.local_path, default=pathlib.Path('out'), help='folder of the results'
  )
  parser.add_argument('--prompt', help='what the music should be like; with or without a video')
  parser.add_argument(
    '--style', type=terminal.local_path, help='a recording whose style the music should have'
  )
  parser.add_argument('--begin', type=terminal.local_path, help='a recording that the music begins with')
  parser.add_argument('--begin_seconds', type=terminal.number, help='how much of it; all by default')
  parser.add_argument('--seed', type=int, default=0, help='same seed, video, bundle and machine: same bits')
  parser.add_argument(
    '--duration', type=terminal.number, help='seconds from the start of the video; all by default'
  )
  for name, kind, text in options.OPTIONS:
    told = f'{text}; {kind.__name__}, or STAGE={kind.__name__},...'
    parser.add_argument(f'--{name}', default='', help=told)
  parser.add_argument(
    '--guidance',
    default='',
    help='GROUP=SCALE,... for the first stage, or STAGE:GROUP=SCALE; groups: video, style',
  )
  parser.add_argument('--loudness', type=terminal.number, help='LUFS of the music; -16 by default')
  parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of the stages')
  parser.add_argument('--rows', type=int, default=16, help='most windows decoded at once')
  parser.add_argument('--clips', type=int, default=4, help='videos decoded side by side')
  network_options.add(parser)
  parser.add_argument('--resume', action='store_true', help='pass over videos whose results are complete')
  parser.add_argument(
    '--stream', action='store_true', help='one video: the music as WAV to standard output, as it is made'
  )
  args = parser.parse_args(argv)
  if args.clips < 1:
    raise errors.ConfigError(f'--clips: {args.clips} is not a positive number')
  if args.begin_seconds is not None and args.begin is None:
    raise errors.ConfigError('--begin_seconds: there is no --begin that it would be of')
  if args.stream and args.resume:
    raise errors.ConfigError('--stream writes no results that --resume could look for; leave one of them out')
  with painter.beside(not args.stream) as artist:
    return _generate(args, artist)


def _generate(args: argparse.Namespace, artist: painter.Painter) -> int:
  """The command's work; `artist` draws the pictures."""
  began = time.perf_counter()
  shared = {'prompt': args.prompt, 'style': args.style, 'seed': args.seed, 'duration': args.duration}
  shared |= {'beginning': args.begin, 'beginning_seconds': args.begin_seconds}
  asked = tasks.read_tasks(args.video, shared, terminal.say)
  if args.stream and len(asked) != 1:
    raise errors.ConfigError(f'--stream: one video can be streamed, not {len(asked)}')
  # Before the model is loaded: the answer to a wrong file should be quick.
  good, failures = tasks.readable(asked)
  tasks.check_places(args.out, good)
  runtime.set_up()
  target = loudness.MUSIC if args.loudness is None else args.loudness
  loaded = bundles.load(args.bundle)
  networks = network_options.chosen(args)
  pipeline = Pipeline.load(loaded, networks=networks, dtype=args.dtype, rows=args.rows)
  sampling = options.changed(pipeline.sampling, vars(args))
  about = {
    task.name: results.describe(task.request, loaded.digest, sampling, args.dtype, target) for task in good
  }
  done = [task for task in good if args.resume and results.complete(args.out, task.name, about[task.name])]
  todo = [task for task in good if task not in done]
  if done:
    terminal.say(f'{len(done)} of {len(good)} are complete already')
  if todo:
    terminal.say(str(pipeline.estimate([task.request for task in todo[: args.clips]], sampling)))
  load_seconds = time.perf_counter() - began
  if args.stream:
    streaming.write(pipeline, asked[0].request, sampling, target, sys.stdout.buffer, terminal.say)
    return 0
  session = Session(pipeline, args.out, sampling, target, len(asked) == 1, artist)
  with terminal.Progress() as progress:
    for piece in session.work(todo, about, args.clips, progress.update):
      for path in piece.paths:
        print(names.shown(path))
      parts = {'load': load_seconds, **piece.seconds}
      print('  '.join(f'{name} {value:.1f} s' for name, value in parts.items()))
      print(f'{piece.length:.1f} s of music in {time.perf_counter() - began:.1f} s', flush=True)
  failures |= session.failures
  for message in failures.values():
    terminal.say_error(message)
  if failures:
    terminal.say_error(f'{len(failures)} of {len(asked)} videos got no music')
  return 2 if failures else 0
