"""`v2meow prepare`: media files to a dataset of clips x streams."""

import argparse
import functools
import re

import gin
from v2meow_jax import bundles, errors, files, terminal, workers
from v2meow_jax.bundles.codec_entry import CODEC
from v2meow_jax.curation import curation, measuring
from v2meow_jax.curation.curation import Curation
from v2meow_jax.data import finishing, making, manifest, parts, preparation, ray_engine
from v2meow_jax.encoders import registry
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.encoders.configured import configured, prepared
from v2meow_jax.experiment import bindings, configuration

ENTRIES = (*registry.ENTRIES, CODEC)


def share(text: str) -> tuple[int, int]:
  """An option's value `i/n`: the i-th of n shares, counted from 0."""
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise argparse.ArgumentTypeError(f'{text} is not i/n with i from 0 to n - 1')
  return int(match[1]), int(match[2])


def main(argv: list[str]) -> int:
  """Prepares a dataset, or adds streams to one; what may be in it files of gin/filters say.

  On many machines: --measure=i/n on each where there are filters, --table once, --shard=i/n on each, then
  --finish; each can be repeated and interrupted.
  """
  parser = configuration.parser('v2meow prepare', main.__doc__)
  streams = ', '.join(entry.stream for entry in ENTRIES)
  parser.add_argument('--manifest', type=terminal.local_path, help='JSON lines; not needed to add streams')
  parser.add_argument(
    '--media', type=terminal.local_path, help="folder that the manifest's paths count from and may not leave"
  )
  parser.add_argument('--out', type=terminal.any_path, required=True, help='directory of the dataset')
  parser.add_argument(
    '--streams',
    help=f'comma-separated, of {streams}; without it and files of gin/encoders: video/motion',
  )
  parser.add_argument('--bundle', type=terminal.any_path, help='whose encoders and codec to use')
  for option in registry.options(ENTRIES):
    if option.kind is bool:
      parser.add_argument(f'--{option.name}', action='store_true', help=option.help)
    else:
      parser.add_argument(f'--{option.name}', type=option.kind, help=option.help)
  parser.add_argument('--clip_seconds', type=terminal.number, default=60.0, help='longest clip')
  parser.add_argument('--validation_share', type=terminal.number, default=0.05, help='share of the sources')
  parser.add_argument('--workers', type=int, default=workers.cores(), help='processes')
  parser.add_argument(
    '--ray', metavar='ADDRESS', help='of a Ray cluster that does the work; "local": one begun here'
  )
  parser.add_argument('--clips_a_part', type=int, default=parts.CLIPS_A_PART, help='done at a time')
  step = parser.add_mutually_exclusive_group()
  step.add_argument('--measure', type=share, metavar='I/N', help='only measure share I of N for the filters')
  step.add_argument('--table', action='store_true', help='only make the table of clips')
  step.add_argument('--shard', type=share, metavar='I/N', help='only make share I of N of the parts')
  step.add_argument('--finish', action='store_true', help='only make a dataset of the parts')
  step.add_argument('--convert', action='store_true', help='only index a dataset of an earlier version')
  args = configuration.parse(parser, argv)
  if not 1 <= args.clip_seconds <= 60:
    raise errors.ConfigError(f'--clip_seconds: {args.clip_seconds:g} is not between 1 and 60')
  if not 0 <= args.validation_share < 1:
    raise errors.ConfigError(f'--validation_share: {args.validation_share:g} is not in [0, 1)')
  if args.clips_a_part < 1:
    raise errors.ConfigError(f'--clips_a_part: {args.clips_a_part} is not a positive number')
  if args.convert:
    finishing.convert(args.out)
    return 0
  if (args.table or args.measure) and args.manifest is None:
    raise errors.ConfigError('--table and --measure need --manifest')
  scopes = scopes_of(args)
  if args.measure is not None:
    rows = _measure(args)
    print(f'{args.out}: share {args.measure[0]} of {args.measure[1]} of {rows} rows is measured')
    return 0
  if args.manifest is not None and (args.shard is None and not args.finish):
    clips = _make_table(args)
    if args.table:
      print(f'{args.out}: {clips} clips')
      return 0
  parts.require_tensorflow()
  encoders = encoders_of(args, scopes)
  rejected = []
  if not args.finish:
    rejected = making.make_parts(
      args.out,
      encoders,
      processes=args.workers,
      share=args.shard or (0, 1),
      clips_a_part=args.clips_a_part,
      engine=_engine(args),
    )
  if args.shard is not None:
    print(f'{args.out}: share {args.shard[0]} of {args.shard[1]} is done, {len(rejected)} rejected')
    return 0
  clips = finishing.finish(args.out, encoders, clips_a_part=args.clips_a_part)
  report = args.out / 'rejected.jsonl'
  turned_away = len(files.read_lines(report)) if report.exists() else 0
  print(f'{args.out}: {clips} clips with {", ".join(encoder.stream.name for encoder in encoders)}')
  if turned_away:
    print(f'{args.out}/rejected.jsonl: {turned_away} rejected, {len(rejected)} of them now')
  return 0


def _engine(args: argparse.Namespace) -> making.Engine | None:
  """What runs the work: a Ray cluster where one is named."""
  if args.ray is None:
    return None
  return functools.partial(ray_engine.on_ray, address=args.ray, processes=args.workers)


def scopes_of(args: argparse.Namespace) -> list[str]:
  """Reads gin's files; the scopes of the encoders that they name."""
  if not (args.gin_file or args.bindings):
    return []
  roots = [entry.settings.__name__ for entry in ENTRIES if entry.settings]
  return configuration.load(args, recipe=False, roots=[*roots, 'Curation'], scoped='prepared')


def _curation(args: argparse.Namespace) -> Curation | None:
  """The filters and settings that gin was told; None where it was told nothing of them."""
  folders = ['', *configuration.begin(args.gin_search_paths)]
  told = bindings.written(args.gin_file, args.bindings, folders, configuration.gin_directory())
  if not any(one.name.startswith('Curation.') for one in told):
    return None
  with configuration.built():
    return configured(Curation)


def _measure(args: argparse.Namespace) -> int:
  """Measures a share of the rows of the manifest; the number of all."""
  rows, _ = manifest.read(args.manifest, args.media)
  kinds = (_curation(args) or Curation()).kinds
  measuring.measure(args.out, rows, kinds, processes=args.workers, share=args.measure)
  return len(rows)


def _make_table(args: argparse.Namespace) -> int:
  """Makes the table of clips; their number."""
  told = {'validation_share': args.validation_share, 'clip_seconds': args.clip_seconds, 'media': args.media}
  chosen = _curation(args)
  if chosen is None:
    return preparation.make_table(args.manifest, args.out, **told)
  clips = curation.make_table(args.manifest, args.out, chosen, processes=args.workers, **told)
  print(f'{args.out}/summary.html shows what passed the filters, and what did not')
  return clips


def encoders_of(args: argparse.Namespace, scopes: list[str]) -> list[Encoder]:
  """What makes the streams that the arguments and gin's scopes name."""
  asked = (args.streams or ('' if scopes else 'video/motion')).split(',')
  names = list(dict.fromkeys(name.strip() for name in asked if name.strip()))
  opened = bundles.load(args.bundle) if args.bundle else None
  bundled = opened.encoder_of if opened else lambda stream: None
  encoders = [registry.make(name, ENTRIES, vars(args), bundled) for name in names]
  encoders += [_of_scope(scope) for scope in scopes]
  made = [encoder.stream.name for encoder in encoders]
  if len(set(made)) < len(made):
    twice = next(name for name in made if made.count(name) > 1)
    raise errors.ConfigError(f'two encoders make {twice}; bind another stream_name for one of them')
  return encoders


def _of_scope(scope: str) -> Encoder:
  with configuration.built(), gin.config_scope(scope):
    return configured(prepared)
