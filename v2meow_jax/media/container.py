"""An open media file: its streams, their packets on one clock that goes on, and their frames.

Time zero of a file, here and in every reader of this package, is the first presentation time of its
video stream, or of its audio stream where it has no video.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from v2meow_jax import errors
from v2meow_jax.media import clock

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

_LATE = 60  # seconds at whose end a stream may begin
PIXELS = 4096 * 2304  # of a picture: 4K in every shape
_ALIGNED = 128  # pixels that a codec may add to a side


@contextlib.contextmanager
def open_media(path: str | os.PathLike) -> Iterator[InputContainer]:
  """Opens a local media file for reading; whatever FFmpeg raises while it is open is told in a sentence.

  Raises:
    errors.MediaError: it is missing, a folder, empty, unreadable, damaged or not audio or video.
  """
  name = os.fspath(path)
  if '\0' in str(name):
    raise errors.MediaError(f'{str(name)!r}: a path holds no NUL; check the name.')
  if not os.path.exists(name):
    raise errors.MediaError(f'{name}: there is no such file; check the path.')
  if os.path.isdir(name):
    raise errors.MediaError(f'{name}: this is a folder; give the path of one video or audio file.')
  if os.path.isfile(name) and os.path.getsize(name) == 0:
    raise errors.MediaError(f'{name}: the file is empty; copy or download it again.')
  try:
    # The prefix keeps a colon in a name from being read as a protocol, and the whitelist keeps a
    # playlist from reaching for the network.
    container = av.open(
      f'file:{os.fsdecode(name)}',
      options={
        'protocol_whitelist': 'file',
        'format_whitelist': _FORMATS,
        # What begins late is still found; files that tell all at once are not read any further.
        'analyzeduration': str(_LATE * 1_000_000),
      },
      metadata_errors='replace',
    )
  except PermissionError:
    raise errors.MediaError(f'{name}: reading it is not permitted; check the permissions.') from None
  except av.error.FFmpegError as error:
    raise errors.MediaError(
      f'{name}: it is not a readable video or audio file ({error.strerror}); it may be truncated, so'
      ' copy it again or convert it to MP4 or WAV.'
    ) from None
  with container:
    if pick(container, 'video') is None and pick(container, 'audio') is None:
      raise errors.MediaError(f'{name}: it holds no video or audio; give a video or audio file.')
    for stream in container.streams.video:
      if stream.codec_context is not None:
        # Pictures that grow midway stay as large as the header says or as films are, or do not decode.
        told = (stream.codec_context.width + _ALIGNED) * (stream.codec_context.height + _ALIGNED)
        stream.codec_context.options = {'max_pixels': str(max(told, PIXELS))}
    try:
      yield container
    except av.error.FFmpegError as error:
      # Those of reading: writers translate their own before they get here. What a damaged header makes FFmpeg
      # ask for may be more memory than there is.
      raise errors.MediaError(
        f'{name}: it cannot be read to its end ({error.strerror}); convert it to MP4 or WAV.'
      ) from error


def video_stream(container: InputContainer, path: str | os.PathLike) -> Any:
  """Returns the first video stream that is not a cover picture; raises errors.MediaError without one."""
  stream = pick(container, 'video')
  if stream is None:
    raise errors.MediaError(f'{os.fspath(path)}: it has no video stream; give a file with pictures.')
  return stream


def audio_stream(container: InputContainer, path: str | os.PathLike) -> Any:
  """Returns the first audio stream; raises errors.MediaError without one."""
  stream = pick(container, 'audio')
  if stream is None:
    raise errors.MediaError(f'{os.fspath(path)}: it has no audio stream; give a file with sound.')
  return stream


def pick(container: InputContainer, kind: str) -> Any:
  """Returns the first decodable stream of a kind, album art left out, or None."""
  for stream in container.streams:
    if stream.type == kind and stream.codec_context is not None:
      if kind == 'video' and stream.disposition & Disposition.attached_pic:
        continue
      # What is announced, but was not found where FFmpeg looks, has no size.
      if not getattr(stream.codec_context, 'sample_rate' if kind == 'audio' else 'width'):
        continue
      return stream
  return None


def origin(container: InputContainer) -> Fraction:
  """Returns time zero (see the head of this file) in seconds on the file's own clock."""
  stream = pick(container, 'video') or pick(container, 'audio')
  return Fraction(stream.start_time or 0) * stream.time_base


def is_timed(container: InputContainer) -> bool:
  """Whether packets carry true times, so that seeking lands where it says and durations hold."""
  if container.format.name not in _TIMED:
    return False
  video = pick(container, 'video')
  if clock.decoding_times_only(container) and video is not None and video.codec_context.has_b_frames:
    return False  # when a frame is shown is known by counting from the first
  return not clock.may_restart(container) or _goes_on(container.name, *_version(container.name))


def _version(name: str) -> tuple[int, int]:
  status = os.stat(name.removeprefix('file:'))
  return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=256)
def _goes_on(name: str, size: int, changed: int) -> bool:
  """Whether the clock of a file, told from its later versions by size and time, never restarts or jumps."""
  del size, changed
  steady = clock.Steady()
  with open_media(name.removeprefix('file:')) as container:
    streams = filter(None, (pick(container, 'video'), pick(container, 'audio')))
    for packet in _demuxed(container, *streams):
      steady.place(packet)
  return not steady.restarts


def packets(container: InputContainer, *streams: Any) -> Iterator[Any]:
  """Yields the packets of some streams up to the end or to where the file is cut off.

  Where the file's clock restarts or jumps, as that of joined recordings does, their times go on. What carries
  decoding times alone has those as presentation times too; see `clock.Shown`.
  """
  steady = clock.Steady() if clock.may_restart(container) else None
  bare = clock.decoding_times_only(container)
  for packet in _demuxed(container, *streams):
    if steady is not None:
      steady.place(packet)
    if bare and packet.size:
      packet.pts = packet.dts
    yield packet


def _demuxed(container: InputContainer, *streams: Any) -> Iterator[Any]:
  with contextlib.suppress(av.error.InvalidDataError, av.error.EOFError):
    yield from container.demux(*streams)


def decode(container: InputContainer, stream: Any) -> Iterator[Any]:
  """Yields the frames of a stream that decode, passing over damaged packets and a cut-off end."""
  shown = clock.Shown() if stream.type == 'video' and clock.decoding_times_only(container) else None
  for packet in packets(container, stream):
    if shown is not None:
      shown.given(packet)
    for frame in decode_packet(packet):
      yield frame if shown is None else shown.placed(frame)
  # Where the file is cut off the decoder has not been told of the end, and holds frames back.
  with contextlib.suppress(av.error.FFmpegError):
    for frame in stream.decode(None):
      yield frame if shown is None else shown.placed(frame)


def decode_packet(packet: Any) -> list[Any]:
  """The frames that a packet gives; none where it is damaged."""
  try:
    return packet.decode()
  except av.error.FFmpegError as error:
    if isinstance(error, MemoryError):
      raise
    return []
