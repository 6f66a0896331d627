"""`v2meow visualize`: renders music to procedural videos: one file, or every row of a manifest.

v2meow visualize --audio song.ogg --out song.mp4
v2meow visualize --manifest music.jsonl --out videos --workers 4
"""

import argparse

from v2meow_jax.data import rendering, visualizer


def main(argv: list[str]) -> int:
  """Runs the command line; returns 0, or 1 if no row of a manifest could be used.

  Raises errors.InputError if the audio or the manifest cannot be used, OSError if the disk fails.
  """
  args = _parser().parse_args(argv)
  config = visualizer.VisualizerConfig(args.frame_rate, args.width, args.height, args.seed, args.calm)
  if args.audio:
    visualizer.visualize(args.audio, args.out, config, not args.no_audio)
    print(f'{args.out}: a procedural video of {args.audio}')
    return 0
  done, rejected = rendering.visualize_manifest(
    args.manifest, args.out, config, not args.no_audio, args.workers
  )
  print(f'{args.out}: {done} videos, {rejected} rows rejected' + ' (see rejected.jsonl)' * (rejected > 0))
  return 0 if done else 1


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
  parser.add_argument(
    '--calm', type=float, default=default.calm, help='share of films in which little moves, 0 to 1'
  )
  parser.add_argument('--no_audio', action='store_true', help='leave the audio out of the videos')
  return parser


def _positive(text: str) -> int:
  if (value := int(text)) < 1:
    raise argparse.ArgumentTypeError('must be 1 or more')
  return value
