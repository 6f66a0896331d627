"""Sound in and out: any container to float samples at a rate, and samples to a WAV file."""

import io
import itertools
import math
import os
import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av.error
import numpy as np
import soundfile
import soxr

from v2meow_jax import errors, files
from v2meow_jax.media import container

# Decoded before what was asked for, so that codecs with overlapping frames have their state.
_PREROLL = Fraction(1, 4)
# Resampled on both sides of what was asked for, so that the filter sees no edge.
_MARGIN = Fraction(1, 10)
# Time stamps are rounded; a codec's frame that is missing leaves a longer hole than this.
_JITTER = Fraction(1, 100)
# Frames of another sample rate in a row that are more than a damaged header.
_FEW = 5
# Frames that are converted at once.
_TOGETHER = 16
# Of each channel on the left and on the right.
_HALF = 0.5**0.5
_GAINS = {'FL': (1, 0), 'FR': (0, 1), 'FC': (_HALF, _HALF), 'BC': (_HALF / 2**0.5, _HALF / 2**0.5)}
_GAINS |= {'FLC': (1, 0), 'FRC': (0, 1)}
_GAINS |= {name: (_HALF, 0) for name in ('BL', 'SL', 'WL')} | {
  name: (0, _HALF) for name in ('BR', 'SR', 'WR')
}


def load_audio(
  path: str | os.PathLike,
  sample_rate: int | None = None,
  channels: int | None = 1,
  start: float = 0.0,
  duration: float | None = None,
) -> tuple[np.ndarray, int]:
  """Loads sound in time with the file's video.

  Sample `i` sounds `start + i / sample_rate` seconds after the first frame of the video, or after the
  first sample where there is no video. Where the sound starts late, and where a damaged packet is
  passed over, zeros stand in; in bare MP3 and AAC, which have no time stamps, what follows moves up.
  Sound whose rate changes midway is resampled to that of its beginning.

  Args:
    path: a local file in any container that FFmpeg reads.
    sample_rate: in Hz; the file's own if None.
    channels: 1 or 2, surround being mixed down by its layout (see `downmix`); None keeps the file's.
    start: seconds.
    duration: seconds; to the end of the sound if None.

  Returns:
    float32 [samples, channels], full scale 1, and the rate in Hz. There are exactly
    `round(duration * sample_rate)` samples where the file has them, and fewer where it ends earlier.

  Raises:
    errors.MediaError: the file cannot be read, has no audio, does not decode or holds values that are not
      finite; errors.MediaEnded: it ends before `start`.
    ValueError: `channels`, `sample_rate`, `start` or `duration` is out of range.
  """
  if channels not in (None, 1, 2):
    raise ValueError(f'channels is 1, 2 or None, not {channels}.')
  if start < 0 or (duration is not None and duration <= 0) or (sample_rate is not None and sample_rate <= 0):
    raise ValueError(
      f'Need start >= 0, duration > 0 and sample_rate > 0: {start=}, {duration=}, {sample_rate=}.'
    )
  with container.open_media(path) as opened:
    native = container.audio_stream(opened, path).sample_rate
  rate = sample_rate or native
  first = round(Fraction(float(start)) * rate)
  begin, skipped = first, 0
  if rate != native:
    # Begin where a sample of the file and one of the output fall together, so that any start gives
    # the samples that the whole file would have there.
    common = math.gcd(native, rate)
    tile = max(0, math.floor((Fraction(float(start)) - _MARGIN) * common))
    begin, skipped = tile * (native // common), first - tile * (rate // common)
  wanted = None if duration is None else round(duration * rate)
  end = None
  if wanted is not None:
    end = begin + wanted
    if rate != native:
      end = begin + math.ceil((Fraction(skipped + wanted, rate) + _MARGIN) * native)
  sound = _load_native(path, native, begin, end, channels)
  if rate != native and len(sound):
    sound = soxr.resample(sound, native, rate, 'HQ')
  sound = sound[skipped:] if wanted is None else sound[skipped : skipped + wanted]
  if not len(sound):
    raise errors.MediaEnded(f'{os.fspath(path)}: its sound ends before {start} s; choose an earlier start.')
  return np.ascontiguousarray(sound), rate


def write_wav(path: str | os.PathLike, audio: np.ndarray, sample_rate: int) -> None:
  """Writes a 16-bit PCM WAV file, whole or not at all.

  Args:
    path: the file to write or replace.
    audio: float [samples, channels] or [samples]; clipped to [-1, 1].
    sample_rate: in Hz.

  Raises:
    ValueError: `audio` holds NaN or infinity.
    OSError: the folder is missing or not writable, or the disk is full.
  """
  if not np.isfinite(audio).all():
    raise ValueError(f'{os.fspath(path)}: the audio to write holds NaN or infinity.')
  # soundfile does not report a disk that fills up, so the bytes are made first.
  buffer = io.BytesIO()
  soundfile.write(buffer, np.clip(audio, -1, 1), sample_rate, subtype='PCM_16', format='WAV')
  files.write_bytes(path, buffer.getvalue())


def pcm(audio: np.ndarray) -> bytes:
  """16-bit samples of float [samples, channels], clipped to [-1, 1], as WAV files hold them."""
  return np.round(np.clip(audio, -1, 1) * 32767).astype('<i2').tobytes()


def stream_header(channels: int, sample_rate: int) -> bytes:
  """The header of a 16-bit WAV of a length that is not known yet, such as players read from a pipe."""
  unknown, width = 0xFFFFFFFF, 2 * channels
  form = struct.pack('<4sIHHIIHH', b'fmt ', 16, 1, channels, sample_rate, sample_rate * width, width, 16)
  return b'RIFF' + struct.pack('<I', unknown) + b'WAVE' + form + b'data' + struct.pack('<I', unknown)


def _load_native(
  path: str | os.PathLike, rate: int, begin: int, end: int | None, channels: int | None
) -> np.ndarray:
  """Loads samples `begin` to `end` (or the last) of the timeline, float32 [samples, channels]."""
  blocks, filled, decoded = [], begin, False
  for at, block in _placed(path, rate, begin, channels):
    decoded = True
    if end is not None and at >= end:
      break
    block = block[max(0, filled - at) : None if end is None else end - at]
    if not len(block):
      continue
    if not np.isfinite(block).all():
      raise errors.MediaError(
        f'{os.fspath(path)}: its audio holds values that are not finite; export it again.'
      )
    if at > filled:
      blocks.append(np.zeros((at - filled, block.shape[1]), np.float32))
      filled = at
    if blocks and blocks[0].shape[1] != block.shape[1]:
      block = np.repeat(block.mean(axis=1, keepdims=True), blocks[0].shape[1], axis=1)
    blocks.append(block)
    filled += len(block)
  if not decoded:
    raise errors.MediaError(f'{os.fspath(path)}: none of its audio decodes; copy or convert it again.')
  return np.concatenate(blocks) if blocks else np.zeros((0, channels or 1), np.float32)


def _placed(
  path: str | os.PathLike, rate: int, begin: int, channels: int | None
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (position in samples on the timeline, float32 [samples, channels]) up to `begin` and on.

  Blocks follow one another exactly; a time stamp counts at the first and where it departs by more
  than the rounding of time stamps explains.
  """
  for seek in (True, False) if begin > 0 else (False,):
    with container.open_media(path) as opened:
      stream = container.audio_stream(opened, path)
      zero = container.origin(opened)
      # A clock coarser than the samples (a millisecond in Matroska) would misplace what follows a seek.
      if seek and not (container.is_timed(opened) and stream.time_base * rate <= 1):
        continue
      if seek:
        target = zero + Fraction(begin, rate) - _PREROLL
        try:
          opened.seek(math.floor(target / stream.time_base), stream=stream)
        except av.error.FFmpegError:
          continue
      jitter = max(_JITTER, 2 * stream.time_base) * rate
      at = None if seek else 0
      first = True
      for stamped, block in _of_one_rate(container.decode(opened, stream), rate, channels):
        if stamped is not None:
          stamp = round((stamped - zero) * rate)
          if at is None or first or abs(stamp - at) > jitter:
            at = stamp
        elif at is None:
          continue  # after a seek, until a time is known
        if seek and at > begin:
          break
        seek = first = False
        yield at, block
        at += len(block)
      if not seek:
        return


def _samples(frames: Sequence[Any]) -> np.ndarray:
  """Returns decoded frames of one format and layout as float32 [samples, channels], full scale 1."""
  data = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
  data = data.T if frames[0].format.is_planar else data.reshape(-1, len(frames[0].layout.channels))
  if data.dtype == np.uint8:
    return (data.astype(np.float32) - 128) / 128
  if np.issubdtype(data.dtype, np.integer):
    return (data / -float(np.iinfo(data.dtype).min)).astype(np.float32)
  return data.astype(np.float32)


def _of_one_rate(
  frames: Iterator[Any], rate: int, channels: int | None
) -> Iterator[tuple[Fraction | None, np.ndarray]]:
  """Yields (time in seconds on the file's clock or None, samples at `rate`) of decoded frames.

  Frames of another rate are resampled together. Where there are few of them it was a header that was damaged,
  and they are passed over.
  """
  for own, run in itertools.groupby(frames, lambda frame: frame.sample_rate):
    parts = _mixed(run, channels)
    if own == rate:
      yield from parts
      continue
    first = list(itertools.islice(parts, _FEW))
    if len(first) == _FEW:
      yield from _resampled(itertools.chain(first, parts), own, rate)


def _resampled(
  parts: Iterator[tuple[Fraction | None, np.ndarray]], own: int, rate: int
) -> Iterator[tuple[Fraction | None, np.ndarray]]:
  stream = None
  for at, block in parts:
    begins = stream is None
    if stream is None:
      stream = soxr.ResampleStream(own, rate, block.shape[1], dtype='float32', quality='HQ')
    made = stream.resample_chunk(block)
    if begins or len(made):
      # What follows the first is in time by its length.
      yield (at if begins else None), made
  if stream is not None:
    yield None, stream.resample_chunk(np.zeros((0, block.shape[1]), np.float32), last=True)


def _time(frame: Any) -> Fraction | None:
  return None if frame.pts is None else frame.pts * frame.time_base


def _mixed(frames: Iterator[Any], channels: int | None) -> Iterator[tuple[Fraction | None, np.ndarray]]:
  """(time, samples) of each frame; several are converted at once, for most of the work is in the calls."""
  for _, alike in itertools.groupby(frames, lambda frame: (frame.format.name, frame.layout.name)):
    while taken := list(itertools.islice(alike, _TOGETHER)):
      whole = _of_channels(_samples(taken), channels, taken[0])
      begin = 0
      for frame in taken:
        yield _time(frame), whole[begin : begin + frame.samples]
        begin += frame.samples


def _of_channels(block: np.ndarray, channels: int | None, frame: Any) -> np.ndarray:
  """Samples [samples, any channels] mixed to `channels` by the layout of a frame."""
  if channels is None or block.shape[1] == channels:
    return block
  if block.shape[1] > 2:
    block = downmix(block, [channel.name for channel in frame.layout.channels])
  if channels == 2 == block.shape[1]:
    return block
  return np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1)


def downmix(block: np.ndarray, names: list[str]) -> np.ndarray:
  """Surround to stereo: centre and surrounds at -3 dB on each side they belong to (ITU-R BS.775).

  The effects channel is left out. Gains are divided by the greatest sum of a side, so that nothing clips.

  Args:
    block: [samples, channels].
    names: of the channels, as FFmpeg has them: `FL`, `FR`, `FC`, `LFE`, `BL`, ...

  Returns:
    [samples, 2]; of channels that have no such names the average, twice.
  """
  gains = np.array([_GAINS.get(name, (0.0, 0.0)) for name in names], np.float32)
  if len(names) != block.shape[1] or not gains.any(0).all():
    return np.repeat(block.mean(axis=1, keepdims=True), 2, axis=1)
  return block @ (gains / gains.sum(0).max())
