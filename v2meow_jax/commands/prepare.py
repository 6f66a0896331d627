"""`v2meow prepare`: media files to a dataset of clips x streams."""

import os

import gin
from v2meow_jax import bundles, errors, terminal
from v2meow_jax.bundles.codec_entry import CODEC
from v2meow_jax.data import preparation
from v2meow_jax.encoders import registry
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.encoders.configured import configured, prepared
from v2meow_jax.experiment import configuration

ENTRIES = (*registry.ENTRIES, CODEC)


def main(argv: list[str]) -> int:
  """Prepares a dataset, or adds streams to one."""
  parser = configuration.parser('v2meow prepare', main.__doc__)
  streams = ', '.join(entry.stream for entry in ENTRIES)
  parser.add_argument('--manifest', type=terminal.local_path, help='JSON lines; not needed to add streams')
  parser.add_argument('--out', type=terminal.local_path, required=True, help='directory of the dataset')
  parser.add_argument(
    '--streams',
    help=f'comma-separated, of {streams}; without it and files of gin/encoders: video/motion',
  )
  parser.add_argument('--bundle', type=terminal.local_path, help='whose encoders and codec to use')
  for option in registry.options(ENTRIES):
    if option.kind is bool:
      parser.add_argument(f'--{option.name}', action='store_true', help=option.help)
    else:
      parser.add_argument(f'--{option.name}', type=option.kind, help=option.help)
  parser.add_argument('--clip_seconds', type=terminal.number, default=60.0, help='longest clip')
  parser.add_argument('--validation_share', type=terminal.number, default=0.05, help='share of the sources')
  parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes')
  args = configuration.parse(parser, argv)
  if not 1 <= args.clip_seconds <= 60:
    raise errors.ConfigError(f'--clip_seconds: {args.clip_seconds:g} is not between 1 and 60')
  if not 0 <= args.validation_share < 1:
    raise errors.ConfigError(f'--validation_share: {args.validation_share:g} is not in [0, 1)')
  preparation.require_tensorflow()
  scopes = []
  if args.gin_file or args.bindings:
    roots = [entry.settings.__name__ for entry in ENTRIES if entry.settings]
    scopes = configuration.load(args, recipe=False, roots=roots, scoped='prepared')
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
  if args.manifest is not None:
    preparation.make_table(
      args.manifest, args.out, validation_share=args.validation_share, clip_seconds=args.clip_seconds
    )
  clips, rejected = preparation.prepare_streams(args.out, encoders, workers=args.workers)
  turned_away = (args.out / 'rejected.jsonl').read_text().count('\n')
  print(f'{args.out}: {clips} clips with {", ".join(made)}')
  if turned_away:
    print(f'{args.out}/rejected.jsonl: {turned_away} rejected, {len(rejected)} of them now')
  return 0


def _of_scope(scope: str) -> Encoder:
  with configuration.built(), gin.config_scope(scope):
    return configured(prepared)
