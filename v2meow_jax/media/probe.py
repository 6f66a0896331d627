"""What a media file holds: its streams, their sizes, rates and durations.

Time zero of a file, here and in every reader of this package, is the first presentation time of its
video stream, or of its audio stream where it has no video.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from v2meow_jax import errors

# Containers that store a time with every packet and a true duration. For the others (raw ADTS, MP3,
# raw H.264) FFmpeg guesses both from the bit rate, which is wrong by whole seconds in long files; that
# of Ogg counts the encoder's priming.
_TIMED = {'asf', 'avi', 'caf', 'aiff', 'flac', 'flv', 'gif', 'mpegts', 'w64', 'wav'}
_TIMED |= {'matroska,webm', 'mov,mp4,m4a,3gp,3g2,mj2'}

# FFmpeg opens much more: pictures and subtitles, and playlists (HLS, concat) that name other files, so that
# a video from a stranger could show what else lies on this disk.
_FORMATS = (
  'aac,ac3,aiff,amr,ape,asf,au,avi,av1,caf,dsf,dts,dv,eac3,flac,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,'
  'mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,tak,tta,vc1,w64,wav,webm,wtv,wv,yuv4mpegpipe'
)

PIXELS = 4096 * 2304  # of a picture: 4K in every shape
_ALIGNED = 128  # pixels that a codec may add to a side

VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv')


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


def videos_in(folder: str | os.PathLike) -> list[pathlib.Path]:
  """Files in a folder that have a video's suffix, sorted.

  Raises:
    errors.MediaError: there is none, or no such folder.
  """
  if not os.path.isdir(folder):
    raise errors.MediaError(f'{folder}: there is no such folder; check the path.')
  found = sorted(path for path in pathlib.Path(folder).iterdir() if path.suffix.lower() in VIDEOS)
  if not found:
    raise errors.MediaError(f'{folder}: there is no video in this folder ({", ".join(VIDEOS)}).')
  return found


@contextlib.contextmanager
def open_media(path: str | os.PathLike) -> Iterator[InputContainer]:
  """Opens a local media file for reading.

  Raises:
    errors.MediaError: it is missing, a folder, empty, unreadable, damaged or not audio or video.
  """
  name = os.fspath(path)
  if not os.path.exists(name):
    raise errors.MediaError(f'{name}: there is no such file; check the path.')
  if os.path.isdir(name):
    raise errors.MediaError(f'{name}: this is a folder; give the path of one video or audio file.')
  if os.path.isfile(name) and os.path.getsize(name) == 0:
    raise errors.MediaError(f'{name}: the file is empty; copy or download it again.')
  try:
    # The prefix keeps a colon in a name from being read as a protocol, and the whitelist keeps a
    # playlist from reaching for the network.
    container = av.open(f'file:{name}', options={'protocol_whitelist': 'file', 'format_whitelist': _FORMATS})
  except PermissionError:
    raise errors.MediaError(f'{name}: reading it is not permitted; check the permissions.') from None
  except av.error.FFmpegError as error:
    if isinstance(error, MemoryError):
      raise
    raise errors.MediaError(
      f'{name}: it is not a readable video or audio file ({error.strerror}); it may be truncated, so'
      ' copy it again or convert it to MP4 or WAV.'
    ) from None
  with container:
    if _pick(container, 'video') is None and _pick(container, 'audio') is None:
      raise errors.MediaError(f'{name}: it holds no video or audio; give a video or audio file.')
    for stream in container.streams.video:
      if stream.codec_context is not None:
        # Pictures that grow midway stay as large as the header says or as films are, or do not decode.
        told = (stream.codec_context.width + _ALIGNED) * (stream.codec_context.height + _ALIGNED)
        stream.codec_context.options = {'max_pixels': str(max(told, PIXELS))}
    yield container


def video_stream(container: InputContainer, path: str | os.PathLike) -> Any:
  """Returns the first video stream that is not a cover picture; raises errors.MediaError without one."""
  stream = _pick(container, 'video')
  if stream is None:
    raise errors.MediaError(f'{os.fspath(path)}: it has no video stream; give a file with pictures.')
  return stream


def audio_stream(container: InputContainer, path: str | os.PathLike) -> Any:
  """Returns the first audio stream; raises errors.MediaError without one."""
  stream = _pick(container, 'audio')
  if stream is None:
    raise errors.MediaError(f'{os.fspath(path)}: it has no audio stream; give a file with sound.')
  return stream


def origin(container: InputContainer) -> Fraction:
  """Returns time zero (see the head of this file) in seconds on the file's own clock."""
  stream = _pick(container, 'video') or _pick(container, 'audio')
  return Fraction(stream.start_time or 0) * stream.time_base


def is_timed(container: InputContainer) -> bool:
  """Whether packets carry true times, so that seeking lands where it says and durations hold."""
  return container.format.name in _TIMED


def packets(container: InputContainer, *streams: Any) -> Iterator[Any]:
  """Yields the packets of some streams up to the end or to where the file is cut off."""
  with contextlib.suppress(av.error.InvalidDataError, av.error.EOFError):
    yield from container.demux(*streams)


def decode(container: InputContainer, stream: Any) -> Iterator[Any]:
  """Yields the frames of a stream that decode, passing over damaged packets and a cut-off end."""
  for packet in packets(container, stream):
    yield from _decode_packet(packet)
  # Where the file is cut off the decoder has not been told of the end, and holds frames back.
  with contextlib.suppress(av.error.FFmpegError):
    yield from stream.decode(None)


def probe(path: str | os.PathLike) -> MediaInfo:
  """Reads what a media file holds, decoding one picture at most.

  Durations come from the header where the container keeps them, and from the packets otherwise.

  Args:
    path: a local file.

  Raises:
    errors.MediaError: as `open_media` does.
  """
  with open_media(path) as container:
    video, audio = _pick(container, 'video'), _pick(container, 'audio')
    streams = [stream for stream in (video, audio) if stream is not None]
    zero = origin(container)
    known = is_timed(container) and all(stream.duration is not None for stream in streams)
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


def rotation_of(frame: av.VideoFrame) -> int:
  """Returns the clockwise turn that displays a decoded frame, to the nearest of 0, 90, 180, 270 degrees."""
  return round(-frame.rotation / 90) % 4 * 90


def _pick(container: InputContainer, kind: str) -> Any:
  """Returns the first decodable stream of a kind, album art left out, or None."""
  for stream in container.streams:
    if stream.type == kind and stream.codec_context is not None:
      if kind == 'video' and stream.disposition & Disposition.attached_pic:
        continue
      return stream
  return None


def _decode_packet(packet: Any) -> list[Any]:
  try:
    return packet.decode()
  except av.error.FFmpegError as error:
    if isinstance(error, MemoryError):
      raise
    return []


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
      for frame in _decode_packet(packet):
        rotation = rotation_of(frame)
    if packet.size == 0 or packet.is_discard:
      continue
    ticks = packet.duration or _frame_ticks(stream)
    # Elementary streams have no times: their packets follow one another.
    begin = ends[stream.index] if packet.pts is None else packet.pts * stream.time_base
    end = begin + ticks * stream.time_base - _padding(container, packet)
    ends[stream.index] = max(ends[stream.index], end)
  return ends, rotation or 0


def _frame_ticks(stream: Any) -> Fraction:
  rate = getattr(stream, 'average_rate', None) or getattr(stream, 'guessed_rate', None)
  return 1 / (rate * stream.time_base) if rate else Fraction(0)


def _padding(container: InputContainer, packet: Any) -> Fraction:
  """Returns the seconds of encoder padding at the end of an MP3 packet; others' durations leave it out."""
  if container.format.name != 'mp3' or not packet.has_sidedata('skip_samples'):
    return Fraction(0)
  at_end = int.from_bytes(bytes(packet.get_sidedata('skip_samples'))[4:8], 'little')
  return Fraction(at_end, packet.stream.sample_rate)
