"""What a media file holds: its streams, their sizes, rates and durations."""

import dataclasses
import os
from fractions import Fraction
from typing import Any

from av.container import InputContainer

from v2meow_jax.media import orientation
from v2meow_jax.media.clock import may_restart
from v2meow_jax.media.container import (
  decode_packet,
  is_timed,
  open_media,
  origin,
  packets,
  pick,
  video_stream,
)

# Of ISO/IEC 14496-3, by their number in an ADTS header.
_ADTS_RATES = dict(
  enumerate((96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350))
)


@dataclasses.dataclass(frozen=True)
class VideoInfo:
  """A video stream.

  Attributes:
    width, height: pixels as displayed, after the rotation; non-square pixels are not stretched.
    frame_rate: mean frames a second in Hz, None where the file does not tell.
    rotation: degrees clockwise to turn the decoded pictures for display: 0, 90, 180 or 270.
    duration: seconds from the first presentation time to the end of the last frame.
  """

  width: int
  height: int
  frame_rate: Fraction | None
  rotation: int
  duration: float


@dataclasses.dataclass(frozen=True)
class AudioInfo:
  """An audio stream: `sample_rate` in Hz, `channels`, `duration` in seconds from its own start."""

  sample_rate: int
  channels: int
  duration: float


@dataclasses.dataclass(frozen=True)
class MediaInfo:
  """A media file: `duration` is seconds from time zero to the end of the stream that ends last."""

  path: str
  duration: float
  video: VideoInfo | None
  audio: AudioInfo | None


def probe(path: str | os.PathLike) -> MediaInfo:
  """Reads what a media file holds, decoding one picture at most.

  Durations come from the header where the container keeps them, and from the packets otherwise.

  Args:
    path: a local file.

  Raises:
    errors.MediaError: as `open_media` does.
  """
  with open_media(path) as container:
    video, audio = pick(container, 'video'), pick(container, 'audio')
    streams = [stream for stream in (video, audio) if stream is not None]
    zero = origin(container)
    # FFmpeg guesses how long recordings are from their last packets.
    known = is_timed(container) and not may_restart(container)
    known &= all(stream.duration is not None for stream in streams)
    ends, rotation = _scan(container, streams, video, whole=not known)
    starts = {stream.index: Fraction(stream.start_time or 0) * stream.time_base for stream in streams}
    if known:
      ends = {stream.index: starts[stream.index] + stream.duration * stream.time_base for stream in streams}
    durations = {index: float(max(end - starts[index], 0)) for index, end in ends.items()}
    video_info = audio_info = None
    if video is not None:
      sideways = rotation in (90, 270)
      video_info = VideoInfo(
        width=video.height if sideways else video.width,
        height=video.width if sideways else video.height,
        frame_rate=video.average_rate or video.guessed_rate or None,
        rotation=rotation,
        duration=durations[video.index],
      )
    if audio is not None:
      audio_info = AudioInfo(audio.sample_rate, audio.channels, durations[audio.index])
    total = float(max(max(ends.values()) - zero, 0))
    return MediaInfo(os.fspath(path), total, video_info, audio_info)


def count_pictures(path: str | os.PathLike, seconds: float, most: int) -> int:
  """Packets of the video within its first `seconds`, by the times that they carry; at most `most` + 1.

  Raises:
    errors.MediaError: as `open_media` does, or there is no video.
  """
  with open_media(path) as container:
    stream = video_stream(container, path)
    end = (stream.start_time or 0) + Fraction(seconds) / stream.time_base
    count = 0
    for packet in packets(container, stream):
      count += packet.size > 0 and (packet.pts is None or packet.pts < end)
      if count > most:
        break
    return count


def _scan(
  container: InputContainer, streams: list[Any], video: Any, whole: bool
) -> tuple[dict[int, Fraction], int]:
  """Reads packets for the end of each stream and for the rotation, which only a decoded frame tells.

  Args:
    whole: read to the end of the file, not only to the first picture.

  Returns:
    by stream index the end in seconds on the file's own clock, and the rotation in degrees.
  """
  ends = {stream.index: Fraction(0) for stream in streams}
  rotation = None if video is not None else 0
  for packet in packets(container, *streams):
    if not whole and rotation is not None:
      break
    stream: Any = packet.stream
    if rotation is None and stream is video:
      for frame in decode_packet(packet):
        rotation = 90 * orientation.of(frame).turns
    if packet.size == 0 or packet.is_discard:
      continue
    own = _adts_ticks(container, packet)
    ticks = own or packet.duration or _frame_ticks(stream)
    # Elementary streams have no times: their packets follow one another.
    begin = ends[stream.index] if packet.pts is None or own else packet.pts * stream.time_base
    end = begin + ticks * stream.time_base - _padding(container, packet)
    ends[stream.index] = max(ends[stream.index], end)
  return ends, rotation or 0


def _adts_ticks(container: InputContainer, packet: Any) -> Fraction:
  """Ticks of a frame of bare AAC by the rate in its own header, which may change midway; else 0."""
  if container.format.name != 'aac' or packet.size < 7:
    return Fraction(0)
  rate = _ADTS_RATES.get(bytes(packet)[2] >> 2 & 15)
  return 1024 / (rate * packet.time_base) if rate else Fraction(0)


def _frame_ticks(stream: Any) -> Fraction:
  rate = getattr(stream, 'average_rate', None) or getattr(stream, 'guessed_rate', None)
  return 1 / (rate * stream.time_base) if rate else Fraction(0)


def _padding(container: InputContainer, packet: Any) -> Fraction:
  """Returns the seconds of encoder padding at the end of an MP3 packet; others' durations leave it out."""
  if container.format.name != 'mp3' or not packet.has_sidedata('skip_samples'):
    return Fraction(0)
  at_end = int.from_bytes(bytes(packet.get_sidedata('skip_samples'))[4:8], 'little')
  return Fraction(at_end, packet.stream.sample_rate)
