"""A video's pictures and new sound in one MP4 file."""

import contextlib
import dataclasses
import errno
import heapq
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
import soxr
from av.container import InputContainer, OutputContainer

from v2meow_jax import errors, files
from v2meow_jax.media import container, encode, frames

_AAC_BIT_RATE = 192_000
# What the browsers of today play from an MP4, and how the pixels are to be stored.
_PLAYABLE = {'h264', 'vp9', 'av1'}
_PIXELS = {'yuv420p', 'yuvj420p'}
_BLOCK = 65_536  # samples that are handed to the encoder at a time
# Faults of the place that is written to; EINVAL and its like are FFmpeg's word for what a container refuses.
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG}
_OF_THE_DISK |= {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


def mux(
  video_path: str | os.PathLike,
  audio: np.ndarray,
  sample_rate: int,
  out_path: str | os.PathLike,
  duration: float | None = None,
  *,
  playable: bool = False,
  watch: Callable[[], None] = lambda: None,
) -> None:
  """Writes an MP4 with the pictures of one file and the given sound, whole or not at all.

  The video's packets are copied as they are, with their rotation; only a codec that MP4 does not
  carry, or a file that does not say when its pictures are shown, is encoded again, as H.264: with its
  turn, mirror, shape of pixels and colours, HDR brought into BT.709. Sample 0 sounds with the first
  frame. The sound becomes AAC at 192 kb/s, at its own rate where AAC has it and otherwise at
  44.1 or 48 kHz.

  Args:
    video_path: a local file with video; its own sound is left out.
    audio: float [samples, 1 or 2 channels], clipped to [-1, 1].
    sample_rate: in Hz.
    out_path: the MP4 to write or replace; it may be `video_path`.
    duration: seconds of video to keep; all of it if None. Copied frames from behind it which earlier
      ones need are kept, and shown for an instant at the end.
    playable: also encode again what browsers do not play, its longer side 1,920 pixels at most.
    watch: called all the time; what it raises ends the writing.

  Raises:
    errors.MediaError: `video_path` cannot be read or has no video, or MP4 does not take what is in it.
    ValueError: `audio` is empty, of another shape or not finite, or `duration` is not positive.
    OSError: the folder of `out_path` is missing or not writable, or the disk is full.
  """
  if audio.ndim != 2 or audio.shape[1] not in (1, 2) or not audio.shape[0]:
    raise ValueError(f'The audio to mux is [samples, 1 or 2 channels], not of shape {audio.shape}.')
  if not np.isfinite(audio).all():
    raise ValueError(f'{os.fspath(out_path)}: the audio to mux holds NaN or infinity.')
  if duration is not None and duration <= 0:
    raise ValueError(f'The duration to mux is positive, not {duration}.')
  with container.open_media(video_path) as source, files.replaced_when_done(out_path) as temporary:
    stream = container.video_stream(source, video_path)
    end = math.inf if duration is None else Fraction(duration) / stream.time_base
    with _written(out_path):
      _write(temporary, source, stream, os.fspath(video_path), audio, sample_rate, end, playable, watch)


def _write(
  temporary: str,
  source: InputContainer,
  stream: Any,
  video_path: str,
  audio: np.ndarray,
  sample_rate: int,
  end: Any,
  playable: bool,
  watch: Callable[[], None],
) -> None:
  with av.open(f'file:{temporary}', 'w', format='mp4', options={'movflags': '+faststart'}) as out:
    pictures = _video_packets(source, stream, video_path, out, end, playable, watch)
    sound = _audio_packets(out, audio, sample_rate)
    count = 0
    for packet in heapq.merge(_closed(pictures), sound, key=lambda packet: packet.dts * packet.time_base):
      watch()
      count += packet.stream.type == 'video'
      out.mux_one(packet)
    if not count:
      raise errors.MediaError(f'{video_path}: it has no readable pictures; copy it again.')


def _closed(packets: Iterator[Any]) -> Iterator[Any]:
  """Packets of which the last lasts until the film ends.

  MP4 counts a track's length in decoding times, by which its last packet need not be the picture seen last.
  """
  held: Any = None
  first = begin = end = 0
  for packet in packets:
    if held is None:
      first, begin = packet.dts, packet.pts
    else:
      yield held
    begin, end, held = min(begin, packet.pts), max(end, packet.pts + packet.duration), packet
  if held is not None:
    held.duration = max(held.duration, end - begin - (held.dts - first))
    yield held


@contextlib.contextmanager
def _written(path: str | os.PathLike) -> Iterator[None]:
  """One sentence for what FFmpeg raises while a film is written; what the system says stays an OSError."""
  try:
    yield
  except av.error.FFmpegError as error:
    if isinstance(error, MemoryError):
      raise
    if error.errno in _OF_THE_DISK:
      raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error
    raise errors.MediaError(
      f'{os.fspath(path)}: the film could not be written ({error.strerror}); convert the video to MP4 first.'
    ) from error


def _video_packets(
  source: InputContainer,
  stream: Any,
  path: str,
  out: OutputContainer,
  end: Any,
  playable: bool,
  watch: Callable[[], None],
) -> Iterator[Any]:
  """Adds the video to `out` and returns its packets, which start at 0 and stop at `end` ticks."""
  codec = stream.codec_context
  plays = codec.codec.canonical_name in _PLAYABLE and codec.pix_fmt in _PIXELS
  # Of pictures that were not found yet, MP4's header could say nothing.
  if container.is_timed(source) and codec.pix_fmt is not None and (plays or not playable):
    try:
      target = out.add_stream_from_template(stream, opaque=True)
    except ValueError:
      pass  # the codec has no place in MP4
    else:
      if codec.codec.canonical_name == 'hevc':
        # As Apple's players want it; with the other tag parameters may change midway.
        target.codec_context.codec_tag = 'hvc1'
      return _copied(source, stream, target, _times(path, end, watch))
  return encode.h264(source, stream, out, end, playable=playable)


@dataclasses.dataclass(frozen=True)
class _Times:
  """When the packets of a film are decoded and shown, in the order of the file.

  Attributes:
    tick: seconds.
    shown, decoded, lasting: ticks, of each packet.
  """

  tick: Fraction
  shown: np.ndarray
  decoded: np.ndarray
  lasting: np.ndarray


def _times(path: str, end: Any, watch: Callable[[], None]) -> _Times:
  """Reads the presentation times of the packets up to `end` and lays decoding times below them.

  Decoding times of files may be missing, or after the presentation. Those made here are the presentation
  times in order, moved back as far as the reordering needs: they rise, and none is after its packet's own.
  """
  shown, lasting = [], []
  with container.open_media(path) as source:
    stream = container.video_stream(source, path)
    zero, base, step = stream.start_time or 0, stream.time_base, frames.step_of(stream)
    latest = 0
    begins_before = encode.latest_begin(end, base)
    last = 0  # packets up to the last one that is shown before the end
    widest = 0  # how far behind the latest one a packet was shown, in ticks
    for packet in _usable(container.packets(source, stream)):
      watch()
      shown.append(packet.pts - zero)
      lasting.append(packet.duration or round(step))
      if shown[-1] < begins_before:
        last = len(shown)
      latest = max(latest, shown[-1])
      widest = max(widest, latest - shown[-1])
      if packet.is_keyframe and shown[-1] > end + widest + 16 * step:
        break
  fine = max(1, math.ceil(base * encode.FINE))
  every = np.unique(np.asarray(shown, np.int64))
  times, own = (np.asarray(values[:last], np.int64) for values in (shown, lasting))
  # A picture is seen until the next one, be it behind the end, and the last one as long as it says.
  after = np.searchsorted(every, times, 'right')
  until = np.where(after < len(every), every[np.minimum(after, len(every) - 1)], times + own) * fine
  times *= fine
  length = until - times
  if end != math.inf and last:
    limit = max(math.ceil(end * fine), 1)
    behind = np.flatnonzero(times >= limit)
    # Frames behind the end that earlier ones need: one tick each, as the last thing that is seen.
    first = max(limit - len(behind), times[times < limit].max() + 1)
    times[behind[np.argsort(times[behind], kind='stable')]] = first + np.arange(len(behind))
    length = np.clip(limit - times, 1, length)
  order = np.sort(times)
  order = np.maximum.accumulate(order - np.arange(len(order))) + np.arange(len(order))  # strictly rising
  return _Times(base / fine, times, order - max(0, (order - times).max(initial=0)), length)


def _usable(packets: Iterator[Any]) -> Iterator[Any]:
  """Packets with pictures and a time."""
  for packet in packets:
    if packet.size and (packet.pts is not None or packet.dts is not None):
      if packet.pts is None:
        packet.pts = packet.dts
      yield packet


def _copied(source: InputContainer, stream: Any, target: Any, times: _Times) -> Iterator[Any]:
  target.time_base = times.tick
  told = zip(times.shown.tolist(), times.decoded.tolist(), times.lasting.tolist(), strict=True)
  for packet, (shown, decoded, lasting) in zip(
    _usable(container.packets(source, stream)), told, strict=False
  ):
    packet.time_base = times.tick
    packet.pts, packet.dts, packet.duration = shown, decoded, lasting
    packet.stream = target
    yield packet


def _audio_packets(out: OutputContainer, audio: np.ndarray, sample_rate: int) -> Iterator[Any]:
  """Adds AAC to `out` and returns the packets of `audio`, float [samples, channels], from time 0."""
  rates = av.Codec('aac', 'w').audio_rates or []
  rate = sample_rate
  if rate not in rates:
    rate = 44_100 if rate % 11_025 == 0 else 48_000
    audio = soxr.resample(audio, sample_rate, rate, 'HQ')
  layout = 'mono' if audio.shape[1] == 1 else 'stereo'
  target = out.add_stream('aac', rate=rate, layout=layout, bit_rate=_AAC_BIT_RATE)
  return _sound(np.clip(audio, -1, 1).astype(np.float32), rate, layout, target)


def _sound(audio: np.ndarray, rate: int, layout: str, target: Any) -> Iterator[Any]:
  for at in range(0, len(audio), _BLOCK):
    block = np.ascontiguousarray(audio[at : at + _BLOCK].T)
    frame = av.AudioFrame.from_ndarray(block, format='fltp', layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
    yield from target.encode(frame)
  yield from target.encode(None)
