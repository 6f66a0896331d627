"""From a manifest of media files to a table of clips.

A manifest is JSON lines: `id`, `video` and/or `audio` (paths, relative to the manifest), and optionally
`source`, `split`, `caption`, `licence`. Files are cut into clips; all clips of a source share a split.
"""

import pathlib
from fractions import Fraction

import msgspec

from v2meow_jax import errors, manifests
from v2meow_jax.data import order
from v2meow_jax.data.table import Clip
from v2meow_jax.media import probe


def read(path: pathlib.Path) -> tuple[list[dict], list[dict]]:
  """(rows, rejected): rows with absolute paths, and `{line, id, reason}` for each that cannot be used.

  Raises:
    errors.DatasetError: the manifest is missing or empty, or two sources or splits contradict each other.
  """
  rows, rejected, ids = [], [], set()
  splits: dict[str, str] = {}
  for line in manifests.read(path, manifests.ClipRow):
    reason = line.reason or _fault(line.row, path.parent, ids)
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
    paths = {kind: given and manifests.resolved(path.parent, given) for kind, given in _files(row).items()}
    rows.append(line.given | paths | {'source': source})
  return rows, rejected


def _files(row: manifests.ClipRow) -> dict[str, str | None]:
  return {'video': row.video, 'audio': row.audio}


def _fault(row: manifests.ClipRow, folder: pathlib.Path, ids: set[str]) -> str:
  """Why a row cannot be used; empty where it can."""
  if row.id in ids:
    return 'the id occurs twice'
  given = {kind: path for kind, path in _files(row).items() if path}
  if not given:
    return 'neither "video" nor "audio" is given'
  for kind, path in given.items():
    if not pathlib.Path(manifests.resolved(folder, path)).is_file():
      return f'{kind} {manifests.resolved(folder, path)} does not exist'
  return ''


def assign_splits(rows: list[dict], validation_share: float) -> dict[str, str]:
  """Split of each source: as the rows say, or by a hash of the source's name.

  With a positive share and several sources at least one is in each split.
  """
  given = {row['source']: row['split'] for row in rows if row.get('split')}
  free = sorted({row['source'] for row in rows} - given.keys(), key=order.clip_hash)
  below = int(validation_share * 2**64)
  chosen = {source: 'validation' if order.clip_hash(source) < below else 'train' for source in free}
  if free and not given:
    if validation_share > 0 and len(free) > 1:
      chosen[free[0]] = 'validation'
    chosen[free[-1]] = 'train'
  return given | chosen


def cut(
  rows: list[dict], validation_share: float, clip_seconds: float, least_seconds: float
) -> tuple[list[Clip], list[dict]]:
  """(clips, rejected): probes each file and cuts it into clips of `clip_seconds`, the last one shorter.

  A remainder below `least_seconds` is left out.
  """
  splits = assign_splits(rows, validation_share)
  clips, rejected = [], []
  for row in rows:
    try:
      duration, video, audio = _span(row)
    except (errors.MediaError, OSError) as error:
      rejected.append({'id': row['id'], 'reason': str(error)})
      continue
    count = int(duration // clip_seconds) + (duration % clip_seconds >= least_seconds)
    if not count:
      rejected.append({'id': row['id'], 'reason': f'{duration:.2f} s long, less than {least_seconds:g} s'})
    for number in range(count):
      start = number * clip_seconds
      # Milliseconds: durations in a table should read as people write them.
      length = float(Fraction(int(min(clip_seconds, duration - start) * 1000), 1000))
      clips.append(
        Clip(
          id=f'{row["id"]}-{number:04d}',
          source=row['source'],
          start=start,
          duration=length,
          split=splits[row['source']],
          video=video,
          audio=audio,
          caption=row.get('caption') or '',
          licence=row.get('licence') or '',
        )
      )
  return clips, rejected


def _span(row: dict) -> tuple[float, str | None, str | None]:
  """(seconds, video path, audio path) that all parts of a row have."""
  durations, video, audio = [], None, None
  if row.get('video'):
    info = probe.probe(row['video'])
    if info.video is None:
      raise errors.MediaError(f'{row["video"]}: there is no video stream in it; name it as "audio"')
    video = row['video']
    durations.append(info.video.duration)
    if not row.get('audio') and info.audio is not None:
      audio = row['video']
      durations.append(info.audio.duration)
  if row.get('audio'):
    info = probe.probe(row['audio'])
    if info.audio is None:
      raise errors.MediaError(f'{row["audio"]}: there is no audio stream in it')
    audio = row['audio']
    durations.append(info.audio.duration)
  return min(durations), video, audio
