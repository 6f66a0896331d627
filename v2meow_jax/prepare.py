"""`v2meow prepare`: media files to a dataset of clips x streams."""

import argparse
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from v2meow_jax import cli, errors

if TYPE_CHECKING:
  from v2meow_jax.encoders.base import Encoder

STREAMS = (
  'video/motion', 'audio/semantic', 'audio/acoustic', 'audio/waveform', 'style/clap', 'style/tokens',
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
  """Prepares a dataset, or adds streams to one."""
  parser = argparse.ArgumentParser(prog='v2meow prepare', description=main.__doc__)
  parser.add_argument('--manifest', type=pathlib.Path, help='JSON lines; not needed to add streams')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='directory of the dataset')
  parser.add_argument('--streams', default='video/motion', help=f'comma-separated, of {", ".join(STREAMS)}')
  parser.add_argument('--bundle', type=pathlib.Path, help='whose codec and semantic encoder to use')
  parser.add_argument('--codec', type=pathlib.Path, help='a codec run or bundle, instead of --bundle')
  parser.add_argument('--semantic', type=pathlib.Path, help="fit-semantic's file, instead of --bundle")
  parser.add_argument('--clap', help='folder or id of a CLAP model, for style/clap and style/tokens')
  parser.add_argument('--clap_stride', type=float, default=10.0, help='seconds between its 10 s windows')
  parser.add_argument('--captions', action='store_true', help="style of a clip's caption, where it has one")
  parser.add_argument('--style', type=pathlib.Path, help="fit-style's file, for style/tokens")
  parser.add_argument('--sample_rate', type=int, default=16000, help='of audio/waveform, in Hz')
  parser.add_argument('--clip_seconds', type=float, default=60.0, help='longest clip')
  parser.add_argument('--validation_share', type=float, default=0.05, help='share of the sources')
  parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes')
  args = parser.parse_args(argv)
  names = list(dict.fromkeys(name.strip() for name in args.streams.split(',') if name.strip()))
  for name in names:
    if name not in STREAMS:
      raise errors.ConfigError(f'--streams: {name!r} is not one of {", ".join(STREAMS)}')
  if not 1 <= args.clip_seconds <= 60:
    raise errors.ConfigError(f'--clip_seconds: {args.clip_seconds:g} is not between 1 and 60')
  if not 0 <= args.validation_share < 1:
    raise errors.ConfigError(f'--validation_share: {args.validation_share:g} is not in [0, 1)')

  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  try:
    import tensorflow  # noqa: F401
  except ImportError as error:
    raise errors.ConfigError(
      'preparing writes TFRecords and needs TensorFlow; install v2meow-jax with the extra "train"'
    ) from error
  from v2meow_jax.data import preparation

  encoders = [_encoder(name, args) for name in names]
  if args.manifest is not None:
    preparation.make_table(
      args.manifest, args.out, validation_share=args.validation_share, clip_seconds=args.clip_seconds
    )
  clips, rejected = preparation.prepare_streams(args.out, encoders, workers=args.workers)
  turned_away = (args.out / 'rejected.jsonl').read_text().count('\n')
  print(f'{args.out}: {clips} clips with {", ".join(names)}')
  if turned_away:
    print(f'{args.out}/rejected.jsonl: {turned_away} rejected, {len(rejected)} of them now')
  return 0


def _encoder(name: str, args: argparse.Namespace) -> 'Encoder':
  """The encoder that makes a stream."""
  if name == 'video/motion':
    from v2meow_jax.encoders.motion import MotionEncoder

    return MotionEncoder()
  if name == 'audio/waveform':
    from v2meow_jax.encoders.waveform import WaveformEncoder

    return WaveformEncoder(args.sample_rate)
  if name.startswith('style/'):
    return _style_encoder(name, args)
  from v2meow_jax import bundle

  if name == 'audio/semantic':
    from v2meow_jax.encoders.semantic import SemanticEncoder

    if args.semantic:
      return SemanticEncoder.load(args.semantic)
    if args.bundle:
      return bundle.load(args.bundle).semantic()
    raise errors.ConfigError('--streams: audio/semantic needs --bundle, or --semantic with a fitted encoder')
  if args.codec or args.bundle:
    return bundle.load_codec(args.codec or args.bundle)
  raise errors.ConfigError('--streams: audio/acoustic needs --bundle, or --codec with a codec run or bundle')


def _style_encoder(name: str, args: argparse.Namespace) -> 'Encoder':
  from v2meow_jax.encoders import style
  from v2meow_jax.encoders.clap import ClapConfig, ClapEncoder

  if not args.clap:
    raise errors.ConfigError(f'--streams: {name} needs --clap, the folder or id of a CLAP model')
  embedder = ClapEncoder(args.clap, ClapConfig(stride=args.clap_stride, captions=args.captions))
  if name == 'style/clap':
    return embedder
  if not args.style:
    raise errors.ConfigError("--streams: style/tokens needs --style, fit-style's file")
  codebooks, _ = style.read(args.style)
  return style.StyleTokens(embedder, codebooks)


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
