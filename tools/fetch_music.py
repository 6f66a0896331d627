"""Fetches the freely licensed music of a track table from Debian's packages and writes a manifest of it.

For each Debian package named in the table (tab separated, with a header row: id, package, version, path,
title, author, licence, seconds, split) this runs `apt-get download` and `dpkg -x` into `DIR/<package>`; a
package that is already there is left alone, and nothing is installed. It asks for the version in the table
and, where the package archive has moved on, takes the one on offer and says so. It then writes
`DIR/manifest.jsonl`, one line a track in the table's order, with the keys id, audio (the file's absolute
path), title, author, licence, split and source (package/path).

It needs a Debian system with up-to-date package lists (`apt-get update`). The licences are explained in
data/tiny/MUSIC_LICENCES.md.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COLUMNS = ('id', 'package', 'version', 'path', 'title', 'author', 'licence', 'split')


class FetchError(Exception):
  """Something the user can mend; the message is one sentence."""


def read_tracks(path: Path) -> list[dict[str, str]]:
  """The rows of the table, in order."""
  try:
    with path.open(encoding='utf-8', newline='') as f:
      rows = list(csv.DictReader(f, delimiter='\t', quoting=csv.QUOTE_NONE))
  except (OSError, UnicodeDecodeError) as e:
    raise FetchError(f'cannot read the track table {path}: {e}.') from e
  if not rows:
    raise FetchError(f'the track table {path} has no rows.')
  for n, row in enumerate(rows, start=2):
    for column in COLUMNS:
      if not row.get(column):
        raise FetchError(f'line {n} of {path} has no {column}.')
  ids = [row['id'] for row in rows]
  twice = sorted({i for i in ids if ids.count(i) > 1})
  if twice:
    raise FetchError(f'{path} names the id {twice[0]} more than once.')
  return rows


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
  return subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False)


def fetch_package(package: str, version: str, out: Path) -> None:
  """Unpacks the Debian package `package` into `out/<package>`, unless that is there already."""
  target = out / package
  if target.is_dir():
    print(f'{package}: already there')
    return
  for tool in ('apt-get', 'dpkg'):
    if shutil.which(tool) is None:
      raise FetchError(f'cannot fetch {package}: there is no {tool} here, so run this on a Debian system.')
  # Everything happens beside the target and is moved there last: a broken-off run leaves no half package.
  with tempfile.TemporaryDirectory(prefix='.fetch-', dir=out) as tmp:
    work = Path(tmp)
    print(f'{package} {version}: downloading')
    got = run(['apt-get', 'download', f'{package}={version}'], work)
    if got.returncode:
      print(f'{package}: version {version} is not on offer, taking the one that is', file=sys.stderr)
      got = run(['apt-get', 'download', package], work)
    archives = sorted(work.glob('*.deb'))
    if got.returncode or not archives:
      last = (got.stderr.strip().splitlines() or ['no message'])[-1]
      raise FetchError(f'apt-get cannot download {package} (try `apt-get update` first): {last}')
    unpacked = work / 'unpacked'
    got = run(['dpkg', '-x', str(archives[0]), str(unpacked)], work)
    if got.returncode:
      last = (got.stderr.strip().splitlines() or ['no message'])[-1]
      raise FetchError(f'dpkg cannot unpack {package}: {last}')
    unpacked.rename(target)


def fetch(tracks: Path, out: Path) -> int:
  """Fetches every track of the table; returns their number."""
  rows = read_tracks(tracks)
  out = out.resolve()
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise FetchError(f'cannot make the folder {out}: {e}.') from e
  for package, version in {row['package']: row['version'] for row in rows}.items():
    fetch_package(package, version, out)
  lines = []
  for row in rows:
    audio = out / row['package'] / row['path']
    if not audio.is_file():
      raise FetchError(f'the package {row["package"]} has no file {row["path"]} (track {row["id"]}).')
    entry = {
      'id': row['id'],
      'audio': str(audio),
      'title': row['title'],
      'author': row['author'],
      'licence': row['licence'],
      'split': row['split'],
      'source': f'{row["package"]}/{row["path"]}',
    }
    lines.append(json.dumps(entry, ensure_ascii=False) + '\n')
  (out / 'manifest.jsonl').write_text(''.join(lines), encoding='utf-8')
  return len(lines)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='where the packages go')
  parser.add_argument('--tracks', type=Path, default=Path('data/tiny/TRACKS.tsv'), metavar='FILE')
  args = parser.parse_args()
  try:
    count = fetch(args.tracks, args.out)
  except FetchError as e:
    print(f'fetch_music: {e}', file=sys.stderr)
    return 2
  print(f'{args.out / "manifest.jsonl"}: {count} tracks')
  return 0


if __name__ == '__main__':
  sys.exit(main())
