"""From a manifest of media files to a table of clips.

A manifest is JSON lines: `id`, `video` and/or `audio` (paths, relative to the manifest), and optionally
`source`, `split`, `caption`, `licence`. Files are cut into clips; all clips of a source share a split.
"""

import json
import pathlib
from fractions import Fraction

from v2meow_jax import errors
from v2meow_jax.data import order
from v2meow_jax.data.dataset import SPLITS, Clip
from v2meow_jax.media import probe


def read(path: pathlib.Path) -> tuple[list[dict], list[dict]]:
  """(rows, rejected): rows with absolute paths, and `{line, id, reason}` for each that cannot be used.

  Raises:
    errors.DatasetError: the manifest is missing, or two sources or splits contradict each other.
  """
  if not path.is_file():
    raise errors.DatasetError(f'{path}: no such manifest')
  rows, rejected, ids = [], [], set()
  splits: dict[str, str] = {}
  try:
    lines = path.read_text(encoding='utf-8').split('\n')
  except UnicodeDecodeError as error:
    raise errors.DatasetError(
      f'{path}: not a text file in UTF-8 ({error.reason}); save it as such'
    ) from error
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    row, reason = _parse(line, path.parent, ids)
    if reason:
      rejected.append({'line': number, 'id': row.get('id'), 'reason': reason})
      continue
    ids.add(row['id'])
    if row.get('split'):
      other = splits.setdefault(row['source'], row['split'])
      if other != row['split']:
        raise errors.DatasetError(
          f'{path}, line {number}: source {row["source"]!r} is in {row["split"]} here and in {other} above'
        )
    rows.append(row)
  return rows, rejected


def _parse(line: str, folder: pathlib.Path, ids: set[str]) -> tuple[dict, str]:
  """(row, reason why it cannot be used or '')."""
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    return {}, f'not JSON: {error}'
  if not isinstance(row, dict) or not isinstance(row.get('id'), str) or not row['id']:
    return {}, 'no "id", which must be a string'
  if not isinstance(row.setdefault('source', row['id']), str) or not row['source']:
    return row, '"source" is not a string'
  if row['id'] in ids:
    return row, 'the id occurs twice'
  if not row.get('video') and not row.get('audio'):
    return row, 'neither "video" nor "audio" is given'
  if row.get('split') and row['split'] not in SPLITS:
    return row, f'split {row["split"]!r} is not one of {", ".join(SPLITS)}'
  for key in ('video', 'audio'):
    if row.get(key):
      if not isinstance(row[key], str):
        return row, f'"{key}" is not a path'
      row[key] = str((folder / row[key]).resolve())
      if not pathlib.Path(row[key]).is_file():
        return row, f'{key} {row[key]} does not exist'
  return row, ''


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
          caption=str(row.get('caption', '')),
          licence=str(row.get('licence', '')),
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
