"""What of its media a row of a manifest stands for, found by probing each file once, many at a time."""

import concurrent.futures
from collections.abc import Sequence
from typing import Any

import msgspec

from v2meow_jax import errors, workers
from v2meow_jax.media import probe

AT_ONCE = 16  # files that are opened at once: probing waits for disks more than it computes
TOUCHING = 1e-3  # seconds that a row may ask for beyond a file's end


class Span(msgspec.Struct, frozen=True):
  """A part of a film, of a piece of music, or of both.

  Attributes:
    start: seconds within the files.
    seconds: that all of them have from there on.
    video, audio: paths; None where there is none.
    width, height: pixels as displayed; 0 without a video.
    frame_rate: in Hz; 0 where it is not known.
    sample_rate: in Hz; 0 without sound.
    channels: of the sound.
  """

  start: float
  seconds: float
  video: str | None
  audio: str | None
  width: int = 0
  height: int = 0
  frame_rate: float = 0.0
  sample_rate: int = 0
  channels: int = 0


def span_of(row: dict[str, Any]) -> Span:
  """The span of a row of `manifest.read`.

  Raises:
    errors.MediaError: a file cannot be read, lacks what it is named for, or ends before the span begins.
    OSError: the system has it so.
  """
  video, audio, ends = None, None, []
  about: dict[str, Any] = {}
  if row.get('video'):
    video = row['video']
    info = probe.probe(video)
    if info.video is None:
      raise errors.MediaError(f'{video}: there is no video stream in it; name it as "audio"')
    ends.append(info.video.duration)
    about = {'width': info.video.width, 'height': info.video.height}
    about['frame_rate'] = float(info.video.frame_rate or 0)
    if not row.get('audio') and info.audio is not None:
      audio = video
      ends.append(info.audio.duration)
      about |= _of_sound(info.audio)
  if row.get('audio'):
    audio = row['audio']
    info = probe.probe(audio)
    if info.audio is None:
      raise errors.MediaError(f'{audio}: there is no audio stream in it')
    ends.append(info.audio.duration)
    about |= _of_sound(info.audio)
  start, end = float(row.get('start') or 0), min(ends)
  if row.get('end') is not None:
    end = min(end, float(row['end']))
  if end <= start + TOUCHING:
    raise errors.MediaError(
      f'{video or audio}: it ends at {min(ends):.2f} s, and the row begins at {start:g} s'
    )
  return Span(start, end - start, video, audio, **about)


def _of_sound(info: probe.AudioInfo) -> dict[str, Any]:
  return {'sample_rate': info.sample_rate, 'channels': info.channels}


def spans_of(rows: Sequence[dict[str, Any]]) -> list[Span | Exception]:
  """The span of each row, or why there is none."""
  with concurrent.futures.ThreadPoolExecutor(min(AT_ONCE, 4 * workers.cores())) as pool:
    return list(pool.map(_tried, rows))


def _tried(row: dict[str, Any]) -> Span | Exception:
  try:
    return span_of(row)
  except (errors.MediaError, OSError) as error:
    return error
