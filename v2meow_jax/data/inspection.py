"""What is in a dataset, what is broken in it, how two differ, and a clip of it as a picture."""

import collections
import dataclasses
from typing import Any

import numpy as np
from etils import epath

from v2meow_jax import drawing, errors
from v2meow_jax.data import dataset, records, shards, table
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import frames as video_frames
from v2meow_jax.streams import Stream

PICTURES = 12  # of a clip's film
LONGEST_LIST = 8


@dataclasses.dataclass(frozen=True)
class StreamSummary:
  """What a stream holds.

  Attributes:
    stream: which.
    shards: their number.
    bytes: of the elements.
    hours: that the elements last; 0 where they have no rate.
    empty: clips without elements.
    faults: what is wrong, a sentence each.
    made_by: encoder, settings, weights' hash.
  """

  stream: Stream
  shards: int
  bytes: int
  hours: float
  empty: int
  faults: tuple[str, ...]
  made_by: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Summary:
  """What a dataset holds.

  Attributes:
    clips: split -> number.
    hours: split -> hours.
    sources: number of them.
    durations: quantiles 0, .25, .5, .75, 1 of the clips' lengths in seconds.
    captions: clips that have one.
    licences: licence -> clips, the most frequent ones.
    streams: by name.
    fingerprint: by which runs know it.
  """

  clips: dict[str, int]
  hours: dict[str, float]
  sources: int
  durations: tuple[float, ...]
  captions: int
  licences: dict[str, int]
  streams: dict[str, StreamSummary]
  fingerprint: str

  @property
  def faults(self) -> list[str]:
    """What is wrong with any stream."""
    return [fault for stream in self.streams.values() for fault in stream.faults]


def summarise(directory: epath.PathLike) -> Summary:
  """What is in a dataset.

  Raises:
    errors.DatasetError: its table or `streams.json` is missing or damaged.
  """
  tables = {split: table.ClipTable(directory, split) for split in table.SPLITS}
  tables = {split: clips for split, clips in tables.items() if len(clips)}
  if not tables:
    raise errors.DatasetError(f'{directory}: there is no clip in it')
  sources, licences, captions = set(), collections.Counter(), 0
  for clips in tables.values():
    for clip in clips.all():
      sources.add(clip.source)
      licences[clip.licence or 'not stated'] += 1
      captions += bool(clip.caption)
  durations = np.concatenate([clips.columns['duration'] for clips in tables.values()])
  return Summary(
    clips={split: len(clips) for split, clips in tables.items()},
    hours={split: float(clips.columns['duration'].sum()) / 3600 for split, clips in tables.items()},
    sources=len(sources),
    durations=tuple(float(value) for value in np.quantile(durations, (0, 0.25, 0.5, 0.75, 1))),
    captions=captions,
    licences=dict(licences.most_common(LONGEST_LIST)),
    streams={
      name: _stream(directory, entry, {split: len(clips) for split, clips in tables.items()})
      for name, entry in sorted(dataset.read_streams(directory).items())
    },
    fingerprint=dataset.fingerprint(directory),
  )


def _stream(directory: epath.PathLike, entry: dict, clips: dict[str, int]) -> StreamSummary:
  stream = dataset.stream_of(entry)
  folder, faults, lengths = records.folder(directory, stream), [], [np.zeros(0, np.int64)]
  for split, count in entry['shards'].items():
    try:
      index = shards.read_index(folder, stream, split, count)
    except errors.DatasetError as error:
      faults.append(str(error))
      continue
    lengths.append(index[:, 1])
    if len(index) != clips.get(split, 0):
      faults.append(f'{folder}: {len(index)} records in split {split}, and {clips.get(split, 0)} clips')
    found = shards.faults(folder, stream, split, index, entry['clips_a_shard'])
    faults += [f'{path}: {reason}' for path, reason in found.values()]
  counts = np.concatenate(lengths)
  return StreamSummary(
    stream=stream,
    shards=sum(entry['shards'].values()),
    bytes=int(counts.sum()) * stream.width * stream.dtype.itemsize,
    hours=float(counts.sum() / stream.rate / 3600) if stream.rate else 0.0,
    empty=int((counts == 0).sum()),
    faults=tuple(faults),
    made_by=entry['made_by'],
  )


def tell(summary: Summary) -> list[str]:
  """Lines for a terminal."""
  total = sum(summary.clips.values())
  low, *middle, high = summary.durations
  lines = [
    f'{total:,} clips of {summary.sources:,} sources, {sum(summary.hours.values()):.2f} h: '
    + ', '.join(
      f'{split} {summary.clips[split]:,} ({summary.hours[split]:.2f} h)' for split in summary.clips
    ),
    f'lengths {low:.1f} to {high:.1f} s, quartiles {", ".join(f"{value:.1f}" for value in middle)} s; '
    f'{summary.captions:,} captions',
    'licences: ' + ', '.join(f'{name} {count:,}' for name, count in summary.licences.items()),
    f'fingerprint {summary.fingerprint}',
  ]
  for name, one in summary.streams.items():
    stream = one.stream
    codes = f' x {stream.codes} codes' if stream.codes else ''
    lines.append(
      f'{name:<18} {stream.kind}, {float(stream.rate):g} Hz, width {stream.width}{codes}; '
      f'{one.bytes / 1e6:.1f} MB in {one.shards} shards; {one.empty} empty; '
      f'made by {one.made_by.get("encoder", "?")}'
    )
  return lines + [f'broken: {fault}' for fault in summary.faults]


def compare(one: epath.PathLike, other: epath.PathLike) -> list[str]:
  """How two datasets differ, a sentence each; none where they are the same, media's places apart."""
  found = []
  clips = [{clip.id: clip for clip in table.read_clips(directory)} for directory in (one, other)]
  for name, mine, theirs in ((one, *clips), (other, *reversed(clips))):
    only = [clip for clip in mine if clip not in theirs]
    if only:
      found.append(f'only in {name}: {len(only)} clips ({_some(only)})')
  both = clips[0].keys() & clips[1].keys()
  for field in ('source', 'start', 'duration', 'split', 'caption', 'licence'):
    values = [{name: getattr(clip, field) for name, clip in rows.items()} for rows in clips]
    changed = [name for name in sorted(both) if values[0][name] != values[1][name]]
    if changed:
      found.append(f'another {field}: {len(changed)} clips ({_some(changed)})')
  entries = [dataset.read_streams(directory) for directory in (one, other)]
  for name in sorted(entries[0].keys() | entries[1].keys()):
    mine, theirs = (entry.get(name) for entry in entries)
    if mine is None or theirs is None:
      found.append(f'only in {other if mine is None else one}: stream {name}')
    elif dataset.stream_of(mine) != dataset.stream_of(theirs) or mine['made_by'] != theirs['made_by']:
      found.append(f'stream {name} was made by another encoder or with other settings')
    else:
      changed = _changed(one, other, dataset.stream_of(mine))
      if changed:
        found.append(f'stream {name}: {len(changed)} clips have other elements ({_some(changed)})')
  return found


def _changed(one: epath.PathLike, other: epath.PathLike, stream: Stream) -> list[str]:
  found = []
  for split in table.SPLITS:
    if not (len(table.ClipTable(one, split)) and len(table.ClipTable(other, split))):
      continue
    mine, theirs = (dataset.Dataset(directory, split, (stream,)) for directory in (one, other))
    number = {clip.id: n for n, clip in enumerate(theirs.clips.all())}
    for n, clip in enumerate(mine.clips.all()):
      if clip.id in number:
        elements = theirs.read(stream, number[clip.id])
        if not np.array_equal(mine.read(stream, n), elements):
          found.append(clip.id)
  return found


def _some(names: list[str]) -> str:
  return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def find_clip(directory: epath.PathLike, clip_id: str) -> tuple[str, int, table.Clip]:
  """(split, number, row) of a clip.

  Raises:
    errors.DatasetError: there is none of this id.
  """
  for split in table.SPLITS:
    for number, clip in enumerate(table.ClipTable(directory, split).all()):
      if clip.id == clip_id:
        return split, number, clip
  raise errors.DatasetError(f'{directory}: there is no clip {clip_id!r}; clips.jsonl lists them')


def picture(directory: epath.PathLike, clip_id: str, path: epath.PathLike) -> None:
  """Writes a PNG of a clip: its film's pictures, spectrogram and streams, as far as the media is there."""
  split, number, clip = find_clip(directory, clip_id)
  entries = dataset.read_streams(directory).values()
  streams = [dataset.stream_of(entry) for entry in entries]
  timed = [stream for stream in streams if stream.rate and stream.kind != 'audio']
  shown = []
  if timed:
    data = dataset.Dataset(directory, split, tuple(timed))
    shown = [(stream, elements) for stream in timed if len(elements := data.read(stream, number))]
  sound, rate = np.zeros((round(16000 * clip.duration), 1), np.float32), 16000
  if clip.audio and epath.Path(clip.audio).exists():
    sound, rate = audio_files.load_audio(clip.audio, None, 1, clip.start, clip.duration)
  pictures = None
  if clip.video and epath.Path(clip.video).exists():
    every = clip.duration / PICTURES
    pictures = video_frames.load_frames(clip.video, 1 / every, (160, 90), clip.start, clip.duration)
  title = f'{clip.id}: {clip.start:g} to {clip.start + clip.duration:g} s of {clip.source}'
  drawing.draw(str(path), sound, rate, shown, title, pictures)
