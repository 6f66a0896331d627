"""`v2meow listen`: a listening test as a static page, and the scores of its answers."""

import argparse
import json
import pathlib

import msgspec

from v2meow_jax import errors, files, terminal
from v2meow_jax.evaluation import listening_test, preferences


def main(argv: list[str]) -> int:
  """Makes a page on which people choose between two pieces of music, or scores what they chose."""
  parser = argparse.ArgumentParser(prog='v2meow listen', description=main.__doc__)
  ways = parser.add_subparsers(dest='way', required=True)
  page = ways.add_parser('page', help='a folder to be put on any web server')
  page.add_argument('system', nargs='+', help='NAME=FOLDER of its music; pieces go by the names of files')
  page.add_argument('--videos', type=terminal.local_path, help='folder of the films, by the same names')
  page.add_argument('--seconds', type=terminal.number, default=20.0, help='of each piece that are heard')
  page.add_argument(
    '--checks', type=int, default=2, help='attention checks: questions with noise on one side'
  )
  page.add_argument('--seed', type=int, default=0, help='of order, sides and the names of files')
  page.add_argument(
    '--out', type=terminal.local_path, default=pathlib.Path('listening_test'), help='a folder'
  )
  score = ways.add_parser('score', help='wins, and Bradley-Terry strengths')
  score.add_argument('answers', type=terminal.local_path, nargs='+', help='files that listeners sent')
  score.add_argument('--key', type=terminal.local_path, required=True, help="the page's key.json")
  score.add_argument('--out', type=terminal.local_path, help='a JSON file for the scores')
  args = parser.parse_args(argv)
  return {'page': _page, 'score': _score}[args.way](args)


def _page(args: argparse.Namespace) -> int:
  if args.seconds < 1 or args.checks < 0:
    raise errors.ConfigError('--seconds must be at least 1 and --checks not negative')
  folders = {}
  for text in args.system:
    name, found, folder = text.partition('=')
    if not found or not name or name in folders:
      raise errors.ConfigError(f'{text}: not NAME=FOLDER with a name of its own')
    folders[name] = terminal.local_path(folder)
  told = listening_test.make(
    folders, args.out, videos=args.videos, seconds=args.seconds, checks=args.checks, seed=args.seed
  )
  print(f'{args.out / "page"}: {told["questions"]} questions on {told["pieces"]} pieces, for any web server')
  print(f'{args.out / "key.json"}: who made what; it stays here')
  return 0


def _score(args: argparse.Namespace) -> int:
  def read(path: pathlib.Path) -> dict:
    if not path.is_file():
      raise errors.DatasetError(f'{path}: there is no such file')
    with errors.translated(errors.DatasetError, f'{path}: not JSON as the page and v2meow listen write it'):
      return msgspec.json.decode(path.read_bytes(), type=dict)

  key = read(args.key)
  with errors.translated(errors.DatasetError, f'{args.key}: no key of a listening test'):
    test = {'test': key['test'], 'questions': key['questions']}
  told = []
  for path in args.answers:
    told.append(msgspec.convert(listening_test.unhidden(test, read(path)), preferences.Answers))
  result = preferences.score(told)
  print(f'{result["listeners"]} listeners, {result["left_out"]} left out by attention checks')
  for title, rows in (('wins', result['wins']), ('strength', result['strengths']), ('', result['pairs'])):
    for name, found in rows.items():
      low, high = found['interval']
      edges = '' if low is None else f' [{low:.3f}, {high:.3f}]'
      print(f'{title + " of " + name if title else name}: {found["value"]:.3f}{edges} ({found["count"]})')
  if args.out:
    files.write_text(args.out, json.dumps(result, indent=2) + '\n')
  return 0
