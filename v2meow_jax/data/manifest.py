"""From a manifest of media files to a table of clips.

A manifest is JSON lines: `id`, `video` and/or `audio` (paths, relative to the manifest), and optionally
`start` and `end` (seconds: what of the files is meant), `source`, `split`, `caption`, `licence`. Files are
cut into clips; all clips of a source share a split.
"""

import pathlib
from collections.abc import Callable, Sequence
from fractions import Fraction

import msgspec

from v2meow_jax import errors, manifests
from v2meow_jax.data.spans import Span
from v2meow_jax.data.table import Clip


def read(path: pathlib.Path, media: pathlib.Path | None = None) -> tuple[list[dict], list[dict]]:
  """(rows, rejected): rows with absolute paths, and `{line, id, reason}` for each that cannot be used.

  Args:
    path: of the manifest.
    media: folder that paths count from and may not leave; by default the manifest's, which they may.

  Raises:
    errors.DatasetError: the manifest is missing or empty, or two sources or splits contradict each other.
  """
  rows, rejected, ids = [], [], set()
  folder = media or path.parent
  splits: dict[str, str] = {}
  for line in manifests.read(path, manifests.ClipRow):
    reason = line.reason or _fault(line.row, folder, ids, media)
    if reason:
      rejected.append({'line': line.number, 'id': line.given.get('id'), 'reason': reason})
      continue
    row = line.row
    ids.add(row.id)
    source = row.id if row.source is msgspec.UNSET else row.source
    if row.split and (other := splits.setdefault(source, row.split)) != row.split:
      raise errors.DatasetError(
        f'{path}, line {line.number}: source {source!r} is in {row.split} here and in {other} above'
      )
    paths = {kind: given and manifests.resolved(folder, given) for kind, given in _files(row).items()}
    rows.append(line.given | paths | {'source': source})
  return rows, rejected


def _files(row: manifests.ClipRow) -> dict[str, str | None]:
  return {'video': row.video, 'audio': row.audio}


def _fault(row: manifests.ClipRow, folder: pathlib.Path, ids: set[str], within: pathlib.Path | None) -> str:
  """Why a row cannot be used; empty where it can."""
  if row.id in ids:
    return 'the id occurs twice'
  if row.start < 0 or (row.end is not None and row.end <= row.start):
    return f'"start" {row.start:g} and "end" {row.end} are no span'
  given = {kind: path for kind, path in _files(row).items() if path}
  if not given:
    return 'neither "video" nor "audio" is given'
  for kind, path in given.items():
    if within and not pathlib.Path(manifests.resolved(folder, path)).is_relative_to(within.resolve()):
      return f'{kind} {path} leads out of {within}'
    if not pathlib.Path(manifests.resolved(folder, path)).is_file():
      return f'{kind} {manifests.resolved(folder, path)} does not exist'
  return ''


def cut(
  rows: Sequence[dict],
  spans: Sequence[Span | Exception],
  clip_seconds: float,
  least_seconds: float,
  bounds: Callable[[int], Sequence[float]] = lambda number: (),
) -> tuple[list[Clip], list[int], list[dict]]:
  """Cuts the span of each row into clips.

  Args:
    rows: of `read`.
    spans: of each, or why there is none.
    clip_seconds: that a clip has at most.
    least_seconds: a remainder below it is left out.
    bounds: of a row's number, where clips may end at all (seconds from the span's begin); none: anywhere.

  Returns:
    clips, whose split is still empty; the number of each one's row; `{id, reason}` of rows without a clip.
  """
  clips, numbers, rejected = [], [], []
  for number, (row, span) in enumerate(zip(rows, spans, strict=True)):
    if isinstance(span, Exception):
      rejected.append({'id': row['id'], 'reason': str(span)})
      continue
    pieces = pieces_of(span.seconds, clip_seconds, least_seconds, bounds(number))
    if not pieces:
      reason = f'{span.seconds:.2f} s long, less than {least_seconds:g} s'
      rejected.append({'id': row['id'], 'reason': reason})
    for place, (begin, length) in enumerate(pieces):
      numbers.append(number)
      clips.append(
        Clip(
          id=f'{row["id"]}-{place:04d}',
          source=row['source'],
          start=span.start + begin,
          # Milliseconds: durations in a table should read as people write them.
          duration=float(Fraction(int(length * 1000), 1000)),
          split='',
          video=span.video,
          audio=span.audio,
          caption=row.get('caption') or '',
          licence=row.get('licence') or '',
        )
      )
  return clips, numbers, rejected


def pieces_of(
  seconds: float, longest: float, shortest: float, bounds: Sequence[float] = ()
) -> list[tuple[float, float]]:
  """(begin, seconds) of the clips of a span.

  A clip ends at the last bound that leaves it no longer than `longest` and no shorter than `shortest`; where
  there is none, it is as long as it may be.
  """
  pieces, begin = [], 0.0
  if not bounds:
    count = int(seconds // longest) + (seconds % longest >= shortest)
    return [(number * longest, min(longest, seconds - number * longest)) for number in range(count)]
  while seconds - begin >= shortest:
    ends = [bound for bound in bounds if shortest <= bound - begin <= longest]
    end = seconds if seconds - begin <= longest else max(ends, default=begin + longest)
    pieces.append((begin, end - begin))
    begin = end
  return pieces
