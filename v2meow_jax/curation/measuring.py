"""Measures the rows of a manifest, part by part, in several processes or on many machines.

DIR/measured/KIND/00012.msgpack   what a kind of measure found of the rows of a part

A part's file appears whole, and counts as long as its rows are those of the manifest. What filters make of
the measures is no part of them, so that thresholds can change without anything being read again.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from etils import epath

from v2meow_jax import errors, files, terminal, workers
from v2meow_jax.curation import pictures, sound, speech
from v2meow_jax.curation.pictures import Pictures
from v2meow_jax.curation.sound import Sound, Speech
from v2meow_jax.data import spans
from v2meow_jax.data.spans import Span

ROWS_A_PART = 16
KINDS = ('span', 'sound', 'speech', 'pictures')
_TYPES = {'span': Span, 'sound': Sound, 'speech': Speech, 'pictures': Pictures}

Kind = TypeVar('Kind')


class _Found(msgspec.Struct):
  """What stands in a part's file of a row: its id, and the measure or why there is none."""

  id: str
  reason: str = ''
  value: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
  """Of a row: what was measured; None where it was not asked for or there is no such medium.

  Attributes:
    span: what the row stands for.
    reason: why nothing could be measured; empty where all went well.
  """

  span: Span | None = None
  sound: Sound | None = None
  speech: Speech | None = None
  pictures: Pictures | None = None
  reason: str = ''


def path(directory: epath.Path, kind: str, part: int) -> epath.Path:
  """Where the measures of a part are."""
  return directory / 'measured' / kind / f'{part:05d}.msgpack'


def parts_of(rows: Sequence[dict]) -> list[range]:
  """The numbers of the rows of each part."""
  return [range(at, min(at + ROWS_A_PART, len(rows))) for at in range(0, len(rows), ROWS_A_PART)]


def measure(
  directory: epath.PathLike,
  rows: Sequence[dict],
  kinds: Iterable[str],
  *,
  processes: int = 2,
  share: tuple[int, int] = (0, 1),
) -> None:
  """Measures what is not there yet.

  Args:
    directory: of the dataset.
    rows: of `manifest.read`.
    kinds: of `KINDS`; `span` always is.
    processes: that work at once.
    share: (i, n): every n-th part from the i-th on.

  Raises:
    errors.ConfigError: the weights for speech are missing.
  """
  directory, kinds = epath.Path(directory), _ordered(kinds)
  if 'speech' in kinds:
    speech.weights_path()
  for kind in kinds:
    (directory / 'measured' / kind).mkdir(parents=True, exist_ok=True)
  jobs = []
  for number, part in list(enumerate(parts_of(rows)))[share[0] :: share[1]]:
    mine = [rows[row] for row in part]
    missing = [kind for kind in kinds if _read(directory, kind, number, mine) is None]
    if missing:
      jobs.append((str(directory), number, mine, missing))
  with terminal.Progress() as progress:
    if processes <= 1 or len(jobs) < 2:
      for _ in progress.track(map(_measure_part, jobs), len(jobs), 'measured'):
        pass
      return
    with workers.pool(min(processes, len(jobs)), terminal.hush) as pool:
      for _ in progress.track(pool.map(_measure_part, jobs), len(jobs), 'measured'):
        pass


def _ordered(kinds: Iterable[str]) -> list[str]:
  wanted = {'span', *kinds}
  return [kind for kind in KINDS if kind in wanted]


def read(directory: epath.PathLike, rows: Sequence[dict], kinds: Iterable[str]) -> list[Measured]:
  """The measures of all rows.

  Raises:
    errors.DatasetError: some are missing.
  """
  found: list[Measured] = []
  for number, part in enumerate(parts_of(rows)):
    mine = [rows[row] for row in part]
    columns: dict[str, list[_Found]] = {}
    for kind in _ordered(kinds):
      column = _read(epath.Path(directory), kind, number, mine)
      if column is None:
        raise errors.DatasetError(
          f'{path(epath.Path(directory), kind, number)}: the rows {part.start + 1} to {part.stop} of the '
          'manifest are not measured yet; run v2meow prepare with --measure=I/N for all shares'
        )
      columns[kind] = column
    found += [_joined({kind: column[n] for kind, column in columns.items()}) for n in range(len(part))]
  return found


def _joined(columns: dict[str, _Found]) -> Measured:
  reason = next((one.reason for one in columns.values() if one.reason), '')
  values = {
    kind: msgspec.convert(one.value, _TYPES[kind], strict=True)
    for kind, one in columns.items()
    if one.value is not None
  }
  return Measured(**values, reason=reason)


def _read(directory: epath.Path, kind: str, part: int, rows: Sequence[dict]) -> list[_Found] | None:
  """What is there of a part; None where it is not, or is of other rows."""
  place = path(directory, kind, part)
  if not place.exists():
    return None
  try:
    told = msgspec.msgpack.decode(place.read_bytes(), type=tuple[str, list[_Found]])
  except msgspec.DecodeError:
    return None  # made again
  return told[1] if told[0] == _named(rows) else None


def _named(rows: Sequence[dict]) -> str:
  """By what the rows of a part are known."""
  names = ('id', 'video', 'audio', 'start', 'end')
  return msgspec.json.encode([[row.get(name) for name in names] for row in rows]).decode()


def _measure_part(job: tuple[str, int, list[dict], list[str]]) -> None:
  directory, number, rows, kinds = job
  columns: dict[str, list[_Found]] = {kind: [] for kind in kinds}
  for row in rows:
    for kind, found in _measure_row(row, kinds).items():
      columns[kind].append(found)
  for kind, column in columns.items():
    data = msgspec.msgpack.encode((_named(rows), column))
    files.write_bytes(path(epath.Path(directory), kind, number), data)


def _measure_row(row: dict, kinds: Sequence[str]) -> dict[str, _Found]:
  try:
    span = spans.span_of(row)
  except Exception as error:  # of whatever a file makes a library raise
    return {kind: _Found(row['id'], reason=_sentence(error)) for kind in kinds}
  found = {'span': _Found(row['id'], value=msgspec.to_builtins(span))}
  heard = [kind for kind in ('sound', 'speech') if kind in kinds]
  if span.audio is None:
    found |= {kind: _Found(row['id']) for kind in heard}
  elif heard:
    found |= _tried(row, heard, functools.partial(sound.measure, span, 'sound' in kinds, 'speech' in kinds))
  if 'pictures' in kinds:
    if span.video is None:
      found['pictures'] = _Found(row['id'])
    else:
      found |= _tried(row, ['pictures'], lambda: (pictures.measure(span),))
  return {kind: found[kind] for kind in kinds}


def _tried(row: dict, kinds: Sequence[str], function: Any) -> dict[str, _Found]:
  try:
    made = [one for one in function() if one is not None]
  except errors.ConfigError:
    raise
  except Exception as error:
    return {kind: _Found(row['id'], reason=_sentence(error)) for kind in kinds}
  return {
    kind: _Found(row['id'], value=msgspec.to_builtins(one, builtin_types=(bytes,)))
    for kind, one in zip(kinds, made, strict=True)
  }


def _sentence(error: Exception) -> str:
  text = str(error) if isinstance(error, errors.InputError) else f'{type(error).__name__}: {error}'
  return ' '.join(text.split())[:500]


def hours(measured: Sequence[Measured]) -> float:
  """Of all spans."""
  return math.fsum(one.span.seconds for one in measured if one.span) / 3600
