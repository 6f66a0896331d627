"""Makes tens of hours of music for training from packages alone; run it again to go on where it was.

Scores of music21's corpus, played by FluidSynth in many keys, tempos, ensembles and dynamics, with what is
true of each (beats, key, tempo, energy, attacks) beside it:

  python tools/make_music.py scores --out DIR --hours 40

Freely licensed recordings (see tools/fetch_music.py) as they are and in other keys and tempos:

  python tools/make_music.py recordings --manifest MUSIC/manifest.jsonl --out DIR --variations 3

Both write DIR/manifest.jsonl, for `v2meow visualize` and `v2meow prepare`. Scores need the extra "scores"
(`pip install 'v2meow-jax[scores]'`) and Debian's fluidsynth and fluid-soundfont-gm; DIR/SOURCES.jsonl lists
every score with its origin and rights. Scores of one composition, under whatever name, are in one split.
"""

import argparse
import pathlib
import sys

from v2meow_jax import terminal
from v2meow_jax.data import manifest, music_making, scores, synthesis


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  ways = parser.add_subparsers(dest='way', required=True)
  default = music_making.Rendering()
  way = ways.add_parser('scores')
  way.add_argument('--hours', type=float, default=default.hours)
  way.add_argument('--repertoires', default=','.join(scores.REPERTOIRES), help="folders of music21's corpus")
  way.add_argument('--most', type=int, help='scores of each repertoire')
  way.add_argument('--soundfont', default=synthesis.SOUNDFONT)
  way.add_argument('--channels', type=int, default=default.channels)
  way.add_argument('--seed', type=int, default=default.seed)
  way.add_argument('--validation_share', type=float, default=default.validation_share)
  way.add_argument('--workers', type=int, default=1)
  other = ways.add_parser('recordings')
  other.add_argument('--manifest', type=pathlib.Path, required=True)
  other.add_argument('--variations', type=int, default=3, help='of each, besides itself')
  for each in (way, other):
    each.add_argument('--out', type=pathlib.Path, required=True, help='the folder')
    each.add_argument('--sample_rate', type=int, default=default.sample_rate, help='Hz')
  args = parser.parse_args(argv)
  if args.way == 'recordings':
    rows, rejected = manifest.read(args.manifest)
    made = music_making.vary_recordings(rows, args.out, args.variations, args.sample_rate)
    for row in rejected:
      print(f'{row["id"]}: {row["reason"]}', file=sys.stderr)
  else:
    paths = [path for name in args.repertoires.split(',') for path in scores.find([name])[: args.most]]
    settings = music_making.Rendering(
      args.hours, args.soundfont, args.sample_rate, args.channels, args.validation_share, args.seed
    )
    made = music_making.render_scores(paths, args.out, settings, args.workers)
  print(f'{args.out / "manifest.jsonl"}: {len(made)} pieces')
  return 0 if made else 1


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
