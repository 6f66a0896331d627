"""Manifests of public sets: their published index files and a folder of media.

No index brings the media. What of it is not there is counted by reason and left out. Licences of media are
not those of an index, so rows state none.
"""

import collections
import csv
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from v2meow_jax import errors, manifests
from v2meow_jax.media import folder, probe

SOUNDS = ('.aac', '.aif', '.aiff', '.flac', '.m4a', '.mka', '.mp3', '.oga', '.ogg', '.opus', '.wav', '.wma')
_SPLITS = {'train': 'train', 'val': 'validation', 'validation': 'validation', 'test': 'validation'}
_OWN = set(manifests.ClipRow.__struct_fields__)
# A file this much longer than what is meant of it is the whole it was cut from.
_LONGER = 1.5

Rows = Iterator[dict[str, Any] | str]


class Media:
  """The media files below a folder, by their name without its ending.

  Raises:
    errors.MediaError: there is no such folder.
  """

  def __init__(self, root: str | os.PathLike):
    if not os.path.isdir(root):
      raise errors.MediaError(f'{os.fspath(root)}: there is no such folder; check the path.')
    self.root = pathlib.Path(root).resolve()
    self._by_stem: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for place, folders, names in os.walk(self.root):
      folders[:] = sorted(name for name in folders if not name.startswith('.'))
      for name in sorted(names):
        path = pathlib.Path(place, name)
        if path.suffix.lower() in (*folder.VIDEOS, *SOUNDS) and not name.startswith('.'):
          self._by_stem[path.stem].append(path)

  def files(self) -> list[pathlib.Path]:
    """All, in their order."""
    return sorted(path for paths in self._by_stem.values() for path in paths)

  def named(self, stem: str) -> dict[str, str]:
    """`video` and `audio` of a name, as far as they are there."""
    return pair(self._by_stem.get(stem, ()))

  def stems(self, pattern: str) -> list[str]:
    """Names that match a regular expression as a whole."""
    return sorted(stem for stem in self._by_stem if re.fullmatch(pattern, stem))


def pair(paths) -> dict[str, str]:
  """The first video and the first sound of some files."""
  found: dict[str, str] = {}
  for path in paths:
    found.setdefault('audio' if path.suffix.lower() in SOUNDS else 'video', str(path))
  return found


def v2m(index: pathlib.Path, media: Media) -> Rows:
  """V2M: `V2M.txt`, `V2M-20k.txt` or `V2M-bench.txt`, the id of a video a line; media `ID.mp4`.

  The bench is for validation.
  """
  split = {'split': 'validation'} if 'bench' in index.stem.lower() else {}
  for line in _lines(index):
    # An id alone, a file's name or an address.
    match = re.search(
      r'(?:v=|youtu\.be/|^)([\w-]{6,})', pathlib.PurePath(line).name if '?' not in line else line
    )
    if match is None:
      yield 'lines that name no video'
      continue
    found = media.named(match[1])
    yield {'id': match[1], **found, **split} if found else 'no such file'


def ossl(index: pathlib.Path, media: Media) -> Rows:
  """OSSL-v2: the folder of `metadata.csv` and `splits/{train,test}.txt`; media `MOVIE/CLIP.{mp4,wav}`.

  A movie is a source; what `metadata.csv` says of it stands in the row.
  """
  films: dict[str, dict[str, Any]] = {}
  about = index / 'metadata.csv'
  if about.is_file():
    for row in _table(about):
      values = list(row.items())
      name = row.get('movie_id') or (values[0][1] if values else '')
      films[name] = {key: value for key, value in values if value and key not in _OWN and key != 'movie_id'}
  for split in ('train', 'test'):
    for clip in _lines(index / 'splits' / f'{split}.txt'):
      found = media.named(clip)
      if not found:
        yield 'no such file'
        continue
      movie = pathlib.Path(next(iter(found.values()))).parent.name
      yield films.get(movie, {}) | {'id': clip, **found, 'source': movie, 'split': _SPLITS[split]}


def aist(index: pathlib.Path, media: Media) -> Rows:
  """AIST++: the folder of `splits/crossmodal_{train,val,test}.txt` and `ignore_list.txt`; AIST's videos.

  A line names a dance before all cameras, `gBR_sBM_cAll_d04_mBR0_ch01`; each camera's video is a row. Music
  is the source, for in another split it must not occur; dancer and choreography stand in the row.
  """
  ignored = set(_lines(index / 'ignore_list.txt')) if (index / 'ignore_list.txt').is_file() else set()
  for split in ('train', 'val', 'test'):
    for name in _lines(index / 'splits' / f'crossmodal_{split}.txt'):
      if name in ignored:
        yield 'on the list of those to ignore'
        continue
      parts = name.split('_')
      if len(parts) != 6:
        yield 'lines that name no dance'
        continue
      cameras = media.stems(re.escape(name).replace('cAll', r'c\d\d'))
      if not cameras:
        yield 'no such file'
      for camera in cameras:
        yield {
          'id': camera, **media.named(camera), 'source': parts[4], 'split': _SPLITS[split],
          'dancer': parts[3], 'choreography': '_'.join((parts[0], parts[1], parts[5])),
        }  # fmt: skip


def musiccaps(index: pathlib.Path, media: Media) -> Rows:
  """MusicCaps: its CSV; media `YTID.*`, the ten seconds or the whole that they are of.

  What is of AudioSet's evaluation set is for validation.
  """
  for row in _table(index):
    name = row.get('ytid', '')
    found = media.named(name)
    if not found:
      yield 'no such file' if name else 'rows without "ytid"'
      continue
    try:
      start, end = float(row['start_s']), float(row['end_s'])
      longest = max(probe.probe(path).duration for path in found.values())
    except (KeyError, TypeError, ValueError, OSError) as error:
      yield 'files that cannot be read' if isinstance(error, errors.MediaError) else 'rows without times'
      continue
    span = {'start': start, 'end': end} if longest > end - start + _LONGER else {}
    split = 'validation' if row.get('is_audioset_eval') == 'True' else 'train'
    about = {'source': name, 'split': split, 'caption': row.get('caption', '')}
    yield {'id': f'{name}-{start:g}', **found, **span, **about, 'aspects': row.get('aspect_list', '')}


def plain_folder(index: pathlib.Path, media: Media) -> Rows:
  """A folder: each film or piece of music in it and below; `NAME.txt` beside it is its caption.

  A film and a sound of one name in one folder belong together.
  """
  del index
  groups: dict[pathlib.Path, list[pathlib.Path]] = collections.defaultdict(list)
  for path in media.files():
    groups[path.with_suffix('')].append(path)
  for stem, paths in groups.items():
    row: dict[str, Any] = {'id': str(stem.relative_to(media.root)), **pair(paths)}
    note = stem.with_name(stem.name + '.txt')
    if note.is_file():
      row['caption'] = ' '.join(note.read_text(encoding='utf-8', errors='replace').split())
    yield row


SETS: dict[str, Callable[[pathlib.Path, Media], Rows]] = {
  'v2m': v2m,
  'ossl-v2': ossl,
  'aist++': aist,
  'musiccaps': musiccaps,
  'folder': plain_folder,
}


def rows_of(name: str, index: pathlib.Path, media: str | os.PathLike) -> tuple[list[dict], dict[str, int]]:
  """(rows of a manifest with absolute paths, how many of the index are left out for which reason).

  Args:
    name: of `SETS`.
    index: its file or folder.
    media: the folder of the media.

  Raises:
    errors.InputError: the index or the folder is missing, or not of that form; or two rows have one id.
  """
  rows, missing, ids = [], collections.Counter(), set()
  for row in SETS[name](index, Media(media)):
    if isinstance(row, str):
      missing[row] += 1
    elif row['id'] in ids:
      missing['ids that occur twice'] += 1
    else:
      ids.add(row['id'])
      rows.append({key: value for key, value in row.items() if value not in ('', None)})
  if not rows:
    reasons = ', '.join(f'{count} {reason}' for reason, count in missing.items()) or 'it is empty'
    raise errors.DatasetError(f'{index}: no row of it has its media in {os.fspath(media)} ({reasons})')
  for row in rows:
    msgspec.convert(row, manifests.ClipRow)
  return rows, dict(missing)


def _text(path: pathlib.Path) -> str:
  if not path.is_file():
    raise errors.DatasetError(f'{path}: there is no such index; name the published file or folder')
  try:
    return path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as error:
    raise errors.DatasetError(f'{path}: not a text file in UTF-8 ({error.reason})') from error


def _lines(path: pathlib.Path) -> list[str]:
  return [line.strip() for line in _text(path).split('\n') if line.strip()]


def _table(path: pathlib.Path) -> list[dict[str, str]]:
  rows = csv.DictReader(_text(path).splitlines(keepends=True))
  try:
    return [{key: value for key, value in row.items() if key and isinstance(value, str)} for row in rows]
  except csv.Error as error:
    raise errors.DatasetError(f'{path}: not a table of comma-separated values ({error})') from error
