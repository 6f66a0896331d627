"""`v2meow evaluate`: a bundle on a dataset, its music for videos, a folder of music, or two reports."""

import argparse
import json
import pathlib
from typing import Any

from v2meow_jax import bundles, errors, files, runtime, terminal
from v2meow_jax.commands import network_options
from v2meow_jax.encoders import registry
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.evaluation import (
  bundle_report,
  comparison,
  kept,
  making,
  music_report,
  page,
  subjects,
  swapping,
)
from v2meow_jax.evaluation.measuring import Measuring, Tools
from v2meow_jax.generation import tasks
from v2meow_jax.generation.pipeline import Pipeline

USES = """
  v2meow evaluate --bundle=B --dataset=DS --out=DIR           likelihoods: what stages predict and hear
  v2meow evaluate --bundle=B VIDEO ... --out=DIR              generates music for videos and measures it
  v2meow evaluate --audio=FOLDER --reference=FOLDER --out=DIR measures a folder of music, whoever made it
  v2meow evaluate --compare A B --out=DIR                     two reports, paired by clip
"""


def main(argv: list[str]) -> int:
  """Measures, and writes DIR/report.json and DIR/index.html."""
  args = _parser().parse_args(argv)
  for name in ('crops', 'clips', 'together', 'rows', 'examples'):
    if getattr(args, name) < (0 if name == 'examples' else 1):
      raise errors.ConfigError(f'--{name}: {getattr(args, name)} is not a positive number')
  if args.seconds < 1:
    raise errors.ConfigError(f'--seconds: {args.seconds:g} is not at least 1')
  subject = [bool(args.compare), bool(args.dataset), bool(args.video), bool(args.audio)]
  if sum(subject) != 1:
    raise errors.ConfigError(f'name one thing to measure: --dataset, videos, --audio or --compare:{USES}')
  if args.shard[1] > 1 and args.out is None:
    raise errors.ConfigError('--out: name the folder in which the parts meet')
  if args.compare:
    report = comparison.compare(*args.compare)
    return _end(args, report, comparison.tell(report), page.compared(report))
  if (args.dataset or args.video) and args.bundle is None:
    raise errors.ConfigError('--bundle: name the bundle that is to be measured')
  if args.dataset:
    with terminal.Progress() as progress:
      report = bundle_report.measure(
        bundles.load(args.bundle), args.dataset, crops=args.crops, clips=args.clips, shift=args.shift,
        dtype=args.dtype, seed=args.seed, progress=progress, shard=args.shard,
        kept=kept.Kept(args.out / 'kept') if args.out else None,
      )  # fmt: skip
    if args.shard[1] > 1:
      _end_part(*args.shard)
      return 0
    if 'codec' not in report:
      terminal.say(f'{args.dataset}: no stream audio/waveform, so the codec is not measured')
    return _end(args, report, bundle_report.tell(report), page.likelihood(report))
  return _music(args)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='v2meow evaluate', description=main.__doc__, epilog=USES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  parser.add_argument(
    'video',
    type=terminal.local_path,
    nargs='*',
    help='videos, folders of them or manifests, with their music',
  )
  parser.add_argument(
    '--bundle', type=terminal.any_path, help='that is measured, or whose codec controls use'
  )
  parser.add_argument('--dataset', type=terminal.any_path, help='a prepared dataset')
  parser.add_argument('--audio', type=terminal.local_path, help='a folder of music')
  parser.add_argument(
    '--reference', type=terminal.local_path, help='a folder of true music, of the same names, or a set of any'
  )
  parser.add_argument('--compare', type=terminal.local_path, nargs=2, metavar=('A', 'B'), help='two reports')
  parser.add_argument('--out', type=terminal.local_path, help='a folder for the report')
  parser.add_argument('--seconds', type=terminal.number, default=30.0, help='of each piece, from its start')
  parser.add_argument('--crops', type=int, default=64, help='crops a stage is measured on')
  parser.add_argument('--clips', type=int, default=32, help='clips that the codec is measured on')
  parser.add_argument(
    '--shift', type=terminal.number, default=2.0, help='seconds that conditions are moved by'
  )
  parser.add_argument(
    '--dtype', choices=('float32', 'bfloat16'), default='float32',
    help='of the stages; on a dataset bfloat16 is compared with float32 as well',
  )  # fmt: skip
  parser.add_argument(
    '--embedders', default='', help='streams of further embeddings, such as style/clap, comma-separated'
  )
  parser.add_argument(
    '--labels', default='', help='streams of logits of labels, such as audio/musicnn_tags, comma-separated'
  )
  parser.add_argument('--swap', action='store_true', help='music of each stage fed with truth, too')
  parser.add_argument(
    '--together', type=int, default=4, help='pieces generated side by side, where memory does'
  )
  parser.add_argument('--rows', type=int, default=16, help='most windows decoded at once')
  parser.add_argument(
    '--shard', type=_shard, default=(0, 1), help='I/N: only every N-th piece or batch, from the I-th on'
  )
  parser.add_argument('--examples', type=int, default=3, help='pieces to be heard on the page')
  parser.add_argument('--seed', type=int, default=0, help='of crops, music, noise and exchanged pairs')
  network_options.add(parser)
  return parser


def _shard(text: str) -> tuple[int, int]:
  first, _, count = text.partition('/')
  if not (first.isdigit() and count.isdigit() and int(first) < int(count)):
    raise argparse.ArgumentTypeError(f'{text} is not I/N with I from 0 to N - 1')
  return int(first), int(count)


def _music(args: argparse.Namespace) -> int:
  if args.out is None:
    raise errors.ConfigError('--out: name a folder for the report and what it is made from')
  if args.swap and not args.video:
    raise errors.ConfigError('--swap: only music that is generated for videos here has stages to be fed')
  bundle = bundles.load(args.bundle) if args.bundle else None
  networks = network_options.chosen(args)
  tools = Tools(
    args.seconds,
    codec=bundle.codec() if bundle else None,
    tokens=tuple(bundle.token_encoders()) if bundle else (),
    embedders=_embedders('embedders', args, networks, bundle),
    labellers=_embedders('labels', args, networks, bundle),
    seed=args.seed,
  )
  failures: dict[str, str] = {}
  extra: dict[str, list[subjects.Piece]] = {}
  about: dict[str, Any] = {'seed': args.seed, 'bundle': bundle.digest if bundle else None}
  with terminal.Progress() as progress:
    if args.video:
      assert bundle is not None
      runtime.set_up()
      shared = {'seed': args.seed, 'duration': args.seconds}
      asked, failures = tasks.readable(tasks.read_tasks(args.video, shared, _tell))
      mine = asked[args.shard[0] :: args.shard[1]]
      pipeline = Pipeline.load(bundle, networks=networks, dtype=args.dtype, rows=args.rows)
      folder = args.out / 'music'
      tasks.check_places(folder, asked)
      failures |= making.make(
        bundle, pipeline, mine, folder, dtype=args.dtype, together=args.together, progress=progress.update,
        tell=terminal.say,
      )  # fmt: skip
      about |= {'dtype': args.dtype}
      pieces = subjects.of_tasks(asked, folder)  # with those that failed: shards count them
      rest: list[subjects.Piece] = []
      truth = next((p.truth for p in pieces if p.truth is not None), None)
      if args.swap:
        paired = [(task, p) for task in mine for p in pieces if p.name == task.name and p.truth is not None]
        swapping.make(
          pipeline,
          bundle.digest,
          paired,
          args.out / 'swapped',
          together=args.together,
          progress=progress.update,
        )
        extra = swapping.pieces(pipeline, [p for p in pieces if p.truth is not None], args.out / 'swapped')
    else:
      pieces, rest = subjects.of_folder(args.audio, args.reference, terminal.say)
      folder = args.audio
      truth = args.reference
    measuring = Measuring(tools, kept.beside(folder, args.out), kept.beside(truth or folder, args.out))
    report = music_report.measure(
      pieces, rest, measuring, about=about, extra=extra, shard=args.shard, progress=progress
    )
    report['failures'] |= failures
    if args.shard[1] > 1:
      _end_part(*args.shard)
      return _told(report)
    good = [piece for piece in pieces if piece.name not in report['failures']]
    heard = music_report.examples(good, measuring, args.examples, 10.0, extra)
  _end(args, report, music_report.tell(report), page.music(report, heard))
  return _told(report)


def _tell(text: str) -> None:
  if kept.FOLDER not in text:  # our own, in a folder of videos
    terminal.say(text)


def _embedders(
  option: str, args: argparse.Namespace, networks: dict[str, str], bundle: bundles.Bundle | None
) -> tuple[Encoder, ...]:
  """Encoders of sound by their streams, made as preparation makes them, or the bundle's."""
  names = list(dict.fromkeys(name.strip() for name in getattr(args, option).split(',') if name.strip()))
  options = {option.name: option.default for option in registry.options(registry.ENTRIES)} | networks
  found = []
  for name in names:
    encoder = registry.make(
      name, registry.ENTRIES, options, bundle.encoder_of if bundle else lambda stream: None
    )
    if encoder.needs != 'audio' or encoder.stream.kind != 'embedding':
      raise errors.ConfigError(f'--{option}: {name} is no embedding of sound')
    found.append(encoder)
  return tuple(found)


def _end_part(number: int, count: int) -> None:
  print(f'part {number} of {count} is measured; without --shard the report is written')


def _end(args: argparse.Namespace, report: dict[str, Any], lines: list[str], document: str) -> int:
  print('\n'.join(lines))
  if args.out:
    out: pathlib.Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / 'index.html', document)
    files.write_text(out / 'report.json', json.dumps(report, indent=2, allow_nan=False) + '\n')
    print(out / 'index.html')
  return 0


def _told(report: dict[str, Any]) -> int:
  for message in report['failures'].values():
    terminal.say_error(message)
  return 2 if report['failures'] else 0
