"""What is in a dataset and what was left out, as JSON and as a page with plots and players."""

import collections
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from v2meow_jax import errors, files
from v2meow_jax.curation import page
from v2meow_jax.curation.filters import Candidate
from v2meow_jax.data import order, table
from v2meow_jax.data.table import Clip
from v2meow_jax.media import audio, frames

SAMPLES = 6  # of the clips that stay
SECONDS = 8.0  # of a sample
_PICTURES, _SIZE = 4, (160, 90)
_MOST_REASONS = 40


def of_clips(clips: Sequence[Clip]) -> dict[str, Any]:
  """What the table of clips says."""
  found: dict[str, Any] = {'splits': {}}
  for split in table.SPLITS:
    mine = [clip for clip in clips if clip.split == split]
    if mine:
      found['splits'][split] = {
        'clips': len(mine),
        'hours': math.fsum(clip.duration for clip in mine) / 3600,
        'sources': len({clip.source for clip in mine}),
        'captions': sum(bool(clip.caption) for clip in mine),
      }
  found['licences'] = _counted(clip.licence or 'not stated' for clip in clips)
  found['plots'] = [_histogram('length of clips', 's', [clip.duration for clip in clips])]
  return found


def of_candidates(
  clips: Sequence[Clip], candidates: Sequence[Candidate], stages: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
  """What the measures of the clips that stay say as well, and what each filter did."""
  found = of_clips(clips) | {'stages': list(stages)}
  loud = [one.loudness for one in candidates if one.loudness is not None]
  spoken = [float((one.speech > 0.5).mean()) for one in candidates if one.speech is not None]
  moving = [float(one.changes.mean()) for one in candidates if one.changes is not None and len(one.changes)]
  for name, unit, values, ends in (
    ('loudness', 'LUFS', [value for value in loud if math.isfinite(value)], None),
    ('speech', 'share of a clip', spoken, (0.0, 1.0)),
    ('change from picture to picture', 'of 255', moving, None),
  ):
    if values:
      found['plots'].append(_histogram(name, unit, values, ends))
  found['hours_by'] = {
    'frame rate (Hz)': _hours(
      candidates, lambda one: f'{one.span.frame_rate:.4g}' if one.span.width else 'none'
    ),
    'picture size': _hours(candidates, lambda one: f'{one.span.width} x {one.span.height}'),
    'sample rate (Hz)': _hours(candidates, lambda one: str(one.span.sample_rate or 'none')),
    'channels': _hours(candidates, lambda one: str(one.span.channels or 'none')),
  }
  return found


def _counted(values: Iterable[str]) -> dict[str, int]:
  return dict(collections.Counter(values).most_common(_MOST_REASONS))


def _hours(candidates: Sequence[Candidate], key) -> dict[str, float]:
  found: dict[str, float] = collections.defaultdict(float)
  for one in candidates:
    found[key(one)] += one.seconds / 3600
  return dict(sorted(found.items(), key=lambda row: -row[1])[:12])


def _histogram(
  name: str, unit: str, values: Sequence[float], ends: tuple[float, float] | None = None, bins: int = 24
) -> dict[str, Any]:
  counts, edges = np.histogram(values, bins, ends)
  quantiles = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
  return {
    'name': name,
    'unit': unit,
    'edges': [round(float(edge), 4) for edge in edges],
    'counts': [int(count) for count in counts],
    'quantiles': [round(float(value), 4) for value in quantiles],
  }


def reasons(directory: epath.Path) -> dict[str, int]:
  """How often each kind of reason stands in `rejected.jsonl`: numbers and names left out of it."""
  report = directory / 'rejected.jsonl'
  rows = files.read_lines(report) if report.exists() else []
  return _counted(_kind(row) for row in rows)


def _kind(row: Mapping[str, Any]) -> str:
  if row.get('filter'):
    return f'filter {row["filter"]}'
  reason = str(row.get('reason', ''))
  # Of a file's reason, what comes after its name.
  reason = reason.split(': ', 1)[1] if reason.startswith(('/', '~')) and ': ' in reason else reason
  reason = ''.join('0' if letter.isdigit() else letter for letter in reason)
  place = f'stream {row["stream"]}: ' if row.get('stream') else ''
  return place + ' '.join(word for word in reason.split() if '/' not in word)[:100]


def write(
  directory: epath.Path, summary: Mapping[str, Any], samples: Sequence[tuple[str, Candidate]] = ()
) -> None:
  """Writes `summary.json` and `summary.html`; `samples` are some of what was left out, and why."""
  files.write_text(directory / 'summary.json', json.dumps(summary, indent=2) + '\n')
  write_page(directory, directory / 'summary.html', samples)


def write_page(
  directory: epath.Path, path: epath.PathLike, samples: Sequence[tuple[str, Candidate]] = ()
) -> None:
  """Writes the page of a dataset, by its `summary.json` where it has one.

  Raises:
    errors.DatasetError: there is no table of clips.
  """
  clips = table.read_clips(directory)
  told = directory / 'summary.json'
  with errors.translated(errors.DatasetError, f'{told}: damaged; delete it'):
    summary = json.loads(told.read_text()) if told.exists() else of_clips(clips)
  chosen = sorted(clips, key=lambda clip: order.clip_hash(f'sample {clip.id}'))[:SAMPLES]
  shown = [_sample(clip.id, clip.caption, clip) for clip in chosen]
  left_out = []
  for why, one in samples:
    start = one.span.start + one.begin
    clip = Clip(one.id, one.source, start, one.seconds, '', one.span.video, one.span.audio)
    left_out.append(_sample(one.id, why, clip))
  files.write_text(path, page.document(str(directory), summary, reasons(directory), shown, left_out))


def _sample(name: str, text: str, clip: Clip) -> page.Sample:
  """A few seconds of the middle of a clip; of media that cannot be read, what can."""
  length = min(SECONDS, clip.duration)
  start = clip.start + (clip.duration - length) / 2
  sound, pictures = None, None
  try:
    if clip.audio:
      sound = audio.load_audio(clip.audio, 44100, 2, start, length)
    if clip.video:
      pictures = frames.load_frames(clip.video, _PICTURES / length, _SIZE, start, length)[:_PICTURES]
  except (errors.MediaError, OSError) as error:
    text = f'{text} ({error})'
  return page.Sample(name, text, sound, pictures)
