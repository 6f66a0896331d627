"""A video's pictures and new sound in one MP4 file."""

import heapq
import math
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soxr
from av.container import InputContainer, OutputContainer

from v2meow_jax import errors, files
from v2meow_jax.media import frames, probe

_AAC_BIT_RATE = 192_000
# What the browsers of today play from an MP4, and how the pixels are to be stored.
_PLAYABLE = {'h264', 'vp9', 'av1'}
_PIXELS = {'yuv420p', 'yuvj420p'}
_LONGER_SIDE = 1920
_BLOCK = 65_536  # samples that are handed to the encoder at a time


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
  carry, or a file without time stamps, is encoded again, as H.264. Sample 0 sounds with the first
  frame. The sound becomes AAC at 192 kb/s, at its own rate where AAC has it and otherwise at
  44.1 or 48 kHz.

  Args:
    video_path: a local file with video; its own sound is left out.
    audio: float [samples, 1 or 2 channels], clipped to [-1, 1].
    sample_rate: in Hz.
    out_path: the MP4 to write or replace; it may be `video_path`.
    duration: seconds of video to keep; all of it if None. Copied frames which were encoded out of
      order stay where an earlier frame needs them, so that a few may outlast this.
    playable: also encode again what browsers do not play, its longer side 1,920 pixels at most.
    watch: called all the time; what it raises ends the writing.

  Raises:
    errors.MediaError: `video_path` cannot be read or has no video.
    ValueError: `audio` is empty, of another shape or not finite, or `duration` is not positive.
    OSError: the folder of `out_path` is missing or not writable, or the disk is full.
  """
  if audio.ndim != 2 or audio.shape[1] not in (1, 2) or not audio.shape[0]:
    raise ValueError(f'The audio to mux is [samples, 1 or 2 channels], not of shape {audio.shape}.')
  if not np.isfinite(audio).all():
    raise ValueError(f'{os.fspath(out_path)}: the audio to mux holds NaN or infinity.')
  if duration is not None and duration <= 0:
    raise ValueError(f'The duration to mux is positive, not {duration}.')
  with probe.open_media(video_path) as source, files.replaced_when_done(out_path) as temporary:
    stream = probe.video_stream(source, video_path)
    options = {'movflags': '+faststart'}
    with av.open(f'file:{temporary}', 'w', format='mp4', options=options) as out:
      end = math.inf if duration is None else Fraction(duration) / stream.time_base
      pictures = _video_packets(source, stream, out, end, playable)
      sound = _audio_packets(out, audio, sample_rate)
      count = 0
      for packet in heapq.merge(pictures, sound, key=lambda packet: packet.dts * packet.time_base):
        watch()
        count += packet.stream.type == 'video'
        out.mux_one(packet)
      if not count:
        raise errors.MediaError(f'{os.fspath(video_path)}: it has no readable pictures; copy it again.')


def _video_packets(
  source: InputContainer, stream: Any, out: OutputContainer, end: Any, playable: bool
) -> Iterator[Any]:
  """Adds the video to `out` and returns its packets, which start at 0 and stop at `end` ticks."""
  codec = stream.codec_context
  plays = codec.codec.canonical_name in _PLAYABLE and codec.pix_fmt in _PIXELS
  if probe.is_timed(source) and (plays or not playable):
    try:
      target = out.add_stream_from_template(stream, opaque=True)
    except ValueError:
      pass  # the codec has no place in MP4
    else:
      return _copied(source, stream, target, end)
  target = out.add_stream('libx264', rate=stream.average_rate or stream.guessed_rate or 25)
  target.pix_fmt = 'yuv420p'
  # A browser does not wait for hours: what is shown in one is smaller and encoded faster.
  target.options = {'crf': '18', 'preset': 'veryfast' if playable else 'medium'}
  target.codec_context.time_base = stream.time_base
  return _encoded(source, stream, target, end, _LONGER_SIDE if playable else math.inf)


def _copied(source: InputContainer, stream: Any, target: Any, end: Any) -> Iterator[Any]:
  zero = stream.start_time or 0
  beyond = []  # frames after the end, which frames before it may yet need
  for packet in _with_decoding_times(source, stream):
    packet.pts -= zero
    packet.dts -= zero
    packet.stream = target
    if packet.dts >= end - Fraction(1, 2):
      return
    beyond.append(packet)
    if packet.pts < end - Fraction(1, 2):
      yield from beyond
      beyond.clear()


def _with_decoding_times(source: InputContainer, stream: Any) -> Iterator[Any]:
  """Yields the packets of a stream, all with `pts` and strictly rising `dts` in ticks.

  Matroska leaves out the decoding times of the first packets where frames are reordered; they are
  laid before the first that is known.
  """
  early: list[Any] = []
  last: Any = None
  for packet in probe.packets(source, stream):
    if packet.size == 0 or (packet.pts is None and packet.dts is None):
      continue
    if packet.dts is None and last is None:
      early.append(packet)
      continue
    if last is not None and (packet.dts is None or packet.dts <= last):
      packet.dts = last + 1
    if packet.pts is None:
      packet.pts = packet.dts
    yield from _backdated(early, packet.dts)
    early = []
    last = packet.dts
    yield packet
  if early:
    step = max(1, early[-1].duration or 1)
    yield from _backdated(early, min(packet.pts for packet in early) + step)


def _backdated(packets: list[Any], before: Any) -> list[Any]:
  """Gives the packets decoding times, in ticks, that end below `before`."""
  for packet in reversed(packets):
    before = min(before - max(1, packet.duration or 1), packet.pts)
    packet.dts = before
  return packets


def _encoded(source: InputContainer, stream: Any, target: Any, end: Any, longer: float) -> Iterator[Any]:
  zero, last, size = stream.start_time or 0, -1, None
  for tick, frame in frames.timed_frames(source, stream):
    tick -= zero
    if tick >= end - Fraction(1, 2):
      break
    if tick <= last:
      continue
    if size is None:
      # H.264 in 4:2:0 has even sides only.
      scale = min(1, longer / max(frame.width, frame.height))
      size = [max(2, int(side * scale) // 2 * 2) for side in (frame.width, frame.height)]
      target.width, target.height = size
      if frame.rotation:
        target.set_display_rotation(frame.rotation)
    picture = frame.reformat(*size, format='yuv420p')
    picture.pts, picture.time_base = tick, stream.time_base
    # Left as decoded, the type of each picture would be imposed on the encoder.
    picture.pict_type = 0
    last = tick
    yield from target.encode(picture)
  if size is not None:
    yield from target.encode(None)


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
