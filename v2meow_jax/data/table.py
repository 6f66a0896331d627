"""The clip table: rows that people read, and columns that training reads.

DIR/clips.jsonl          a clip a line, in the order of the records
DIR/index/table.json     how many clips a split has, a digest of the table, the size of clips.jsonl
DIR/index/SPLIT.npy      `COLUMNS` of the clips of a split

The columns are mapped, not read, so that a table of millions of clips opens in milliseconds. Where they are
missing, as in datasets of earlier versions, or belong to another table, they are computed from the rows.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np
from etils import epath

from v2meow_jax import errors, files, stores
from v2meow_jax.data import order

SPLITS = ('train', 'validation')
# Hash of the id, seconds, whether the next clip of the split goes on where this one ends, and where in
# clips.jsonl its line begins and how long it is.
COLUMNS = np.dtype(
  [('hash', '<u8'), ('duration', '<f8'), ('adjoins', '?'), ('offset', '<i8'), ('length', '<i4')]
)


@dataclasses.dataclass(frozen=True)
class Clip:
  """A row of the clip table; times in seconds within the media files."""

  id: str
  source: str
  start: float
  duration: float
  split: str
  video: str | None = None
  audio: str | None = None
  caption: str = ''
  licence: str = ''


class _About(msgspec.Struct):
  """What `index/table.json` says."""

  clips: dict[str, int]
  digest: str
  bytes: int


def _no_table(directory: epath.Path) -> errors.DatasetError:
  return errors.DatasetError(
    f'{directory}: no clips.jsonl there; it is not a prepared dataset, see v2meow prepare'
  )


def _rows(directory: epath.Path) -> tuple[list[Clip], list[bytes]]:
  path = directory / 'clips.jsonl'
  try:
    lines = path.read_bytes().split(b'\n')
  except FileNotFoundError as error:
    raise _no_table(directory) from error
  try:
    return [msgspec.json.decode(line, type=Clip) for line in lines if line.strip()], lines
  except (ValueError, RecursionError) as error:
    raise errors.DatasetError(f'{path}: not a table of clips ({error}); prepare the dataset again') from error


def read_clips(directory: epath.PathLike) -> list[Clip]:
  """All rows of the clip table.

  Raises:
    errors.DatasetError: there is none, or a line of it is damaged.
  """
  return _rows(epath.Path(directory))[0]


def write(directory: epath.PathLike, clips: Iterable[Clip]) -> None:
  """Writes the rows and their columns; table.json, which says that they belong together, last."""
  directory = epath.Path(directory)
  files.write_lines(directory / 'clips.jsonl', map(dataclasses.asdict, clips))
  write_columns(directory)


def write_columns(directory: epath.PathLike) -> None:
  """Writes the columns of the rows that are there."""
  directory = epath.Path(directory)
  (directory / 'index').mkdir(parents=True, exist_ok=True)
  about, columns = _compute(directory)
  for split, values in columns.items():
    files.write_array(_column_path(directory, split), values)
  files.write_text(directory / 'index' / 'table.json', json.dumps(msgspec.to_builtins(about)) + '\n')


def _column_path(directory: epath.Path, split: str) -> epath.Path:
  return directory / 'index' / f'{split}.npy'


def _compute(directory: epath.Path) -> tuple[_About, dict[str, np.ndarray]]:
  """The columns of a table, from its rows."""
  clips, lines = _rows(directory)
  digest, offset, number = hashlib.sha256(), 0, 0
  found: dict[str, list] = {split: [] for split in SPLITS}
  last: dict[str, Clip] = {}
  for line in lines:
    if line.strip():
      clip = clips[number]
      number += 1
      digest.update(f'{clip.id} {clip.start} {clip.duration} {clip.split}\n'.encode())
      rows = found.setdefault(clip.split, [])
      if rows and _adjoin(last[clip.split], clip):
        rows[-1][2] = True
      rows.append([order.clip_hash(clip.id), clip.duration, False, offset, len(line)])
      last[clip.split] = clip
    offset += len(line) + 1
  columns = {split: np.array([tuple(row) for row in rows], COLUMNS) for split, rows in found.items()}
  counts = {split: len(rows) for split, rows in columns.items()}
  return _About(counts, digest.hexdigest(), offset - 1), columns


def _adjoin(clip: Clip, after: Clip) -> bool:
  same = (clip.source, clip.video, clip.audio) == (after.source, after.video, after.audio)
  # Durations are cut to milliseconds, so that what is missing between two is less than one.
  return same and -1e-6 < after.start - clip.start - clip.duration < 1.5e-3


@functools.lru_cache(1)
def _computed(directory: epath.Path, size: int, modified: float) -> tuple[_About, dict[str, np.ndarray]]:
  # One is kept: of a table without columns all splits, and its digest, are asked for one after another.
  del size, modified
  return _compute(directory)


def _open(directory: epath.Path) -> tuple[_About, dict[str, np.ndarray] | None]:
  """(about, columns where they are in no file)."""
  rows = directory / 'clips.jsonl'
  try:
    stat = rows.stat()
  except FileNotFoundError as error:
    raise _no_table(directory) from error
  path = directory / 'index' / 'table.json'
  if path.exists():
    with errors.translated(errors.DatasetError, f'{path}: damaged; delete the folder {path.parent.name}'):
      about = msgspec.json.decode(path.read_bytes(), type=_About)
    if about.bytes == stat.length and all(
      _column_path(directory, split).exists() for split, count in about.clips.items() if count
    ):
      return about, None
  return _computed(directory, stat.length, stat.mtime)


def digest(directory: epath.PathLike) -> str:
  """A hash of the clips' ids, times and splits; where the media lies is not in it."""
  return _open(epath.Path(directory))[0].digest


class ClipTable:
  """The clips of one split, by their number in it.

  Attributes:
    columns: `COLUMNS`, [clips].

  Args:
    directory: of the dataset.
    split: `train` or `validation`.

  Raises:
    errors.DatasetError: there is no table, or it is damaged.
  """

  def __init__(self, directory: epath.PathLike, split: str):
    directory = epath.Path(directory)
    self._rows = directory / 'clips.jsonl'
    about, columns = _open(directory)
    if columns is not None:
      self.columns = columns.get(split, np.zeros(0, COLUMNS))
      return
    if not about.clips.get(split):
      self.columns = np.zeros(0, COLUMNS)
      return
    path = _column_path(directory, split)
    with errors.translated(errors.DatasetError, f'{path}: damaged; delete the folder {path.parent.name}'):
      self.columns = files.read_array(path)
      if self.columns.dtype != COLUMNS or len(self.columns) != about.clips[split]:
        raise ValueError(f'{len(self.columns)} rows of {self.columns.dtype}')

  def __len__(self) -> int:
    return len(self.columns)

  def __iter__(self) -> Iterator[Clip]:
    return (self[number] for number in range(len(self)))

  def all(self) -> Iterator[Clip]:
    """All rows, by one reading of the file."""
    data = self._rows.read_bytes()
    for offset, length in zip(self.columns['offset'], self.columns['length'], strict=True):
      yield msgspec.json.decode(data[offset : offset + length], type=Clip)

  def __getitem__(self, number: int) -> Clip:
    row = self.columns[number]
    start = int(row['offset'])
    line = stores.read_range(self._rows, start, start + int(row['length']))
    with errors.translated(errors.DatasetError, f'{self._rows}: changed while it is read'):
      return msgspec.json.decode(line, type=Clip)
