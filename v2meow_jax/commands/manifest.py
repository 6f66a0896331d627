"""`v2meow manifest`: a manifest of a public set, or of a folder of media."""

import argparse
import os
import pathlib

from v2meow_jax import errors, files, terminal
from v2meow_jax.curation import public_sets


def main(argv: list[str]) -> int:
  """Makes the manifest that `prepare` reads: of a public set, by its index and your folder of its media.

  NAME INDEX MEDIA: v2m V2M-20k.txt MEDIA; ossl-v2 FOLDER MEDIA; aist++ FOLDER MEDIA; musiccaps FILE.csv
  MEDIA; folder MEDIA. What of the index is not in MEDIA is counted and left out.
  """
  parser = argparse.ArgumentParser(
    prog='v2meow manifest', description=main.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('name', choices=sorted(public_sets.SETS))
  parser.add_argument('places', nargs='+', type=terminal.local_path, metavar='INDEX MEDIA')
  parser.add_argument('--out', type=terminal.local_path, default=pathlib.Path('manifest.jsonl'))
  args = parser.parse_args(argv)
  wanted = 1 if args.name == 'folder' else 2
  if len(args.places) != wanted:
    raise errors.ConfigError(f'manifest {args.name}: give {"MEDIA" if wanted == 1 else "INDEX and MEDIA"}')
  rows, missing = public_sets.rows_of(args.name, args.places[0], args.places[-1])
  below = args.out.resolve().parent
  for row in rows:
    for kind in ('video', 'audio'):
      if kind in row and pathlib.Path(row[kind]).is_relative_to(below):
        row[kind] = os.path.relpath(row[kind], below)
  files.write_lines(args.out, rows)
  print(f'{args.out}: {len(rows)} rows')
  for reason, count in missing.items():
    print(f'left out: {count} {reason}')
  return 0
