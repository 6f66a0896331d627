"""The pictures of a video at an exact rate, whatever the rate or irregularity of the file's own."""

import bisect
import collections
import contextlib
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from v2meow_jax import errors, workers
from v2meow_jax.media import container, orientation, probe

# Codecs whose decoders leave out what no other frame refers to, and give the others unchanged.
_SKIPPABLE = {'h264', 'hevc'}
_AHEAD = 64  # packets in which the frame that is shown next is found; reordering is at most 16


@dataclasses.dataclass(frozen=True)
class Reading:
  """How the pictures of a video are wanted.

  Attributes:
    rate: pictures a second, in Hz.
    size: (width, height) in pixels to scale to, by area; the first frame's displayed size if None.
    cover: keep the shape of what is seen: scale, bicubically, until the size is just covered, and cut out
      the middle, as networks for pictures are given theirs.
  """

  rate: Fraction
  size: tuple[int, int] | None = None
  cover: bool = False


def read_frames(
  path: str | os.PathLike,
  rate: Fraction | int | float,
  size: tuple[int, int] | None = None,
  start: float = 0.0,
  duration: float | None = None,
  cover: bool = False,
) -> Iterator[np.ndarray]:
  """Yields the pictures on screen at the times `start + i / rate`, decoding as it goes.

  Picture `i` is the last frame whose presentation time, counted from the first of the stream, is not
  after that time; half a tick of the file's clock is forgiven. Before the first frame that decodes
  the first is shown. A file that ends early, as a truncated one does, holds its last frame to the
  end: the clip stays usable and keeps its length. Frames that are not shown at any of those times, and that
  no other frame refers to, are not decoded.

  Args:
    path: a local video file.
    rate, size, cover: see `Reading`.
    start: seconds from the first frame.
    duration: seconds, giving `ceil(duration * rate)` pictures; to the end of the video if None.

  Yields:
    read-only uint8 [height, width, 3] RGB, turned as it is displayed.

  Raises:
    errors.MediaError: the file cannot be read, has no video, ends before `start` or has no frame that
      decodes. Raised when the first picture is asked for.
    ValueError: `rate` or `size` is not positive, or `start` or `duration` is negative.
  """
  reading = Reading(Fraction(rate), size and (int(size[0]), int(size[1])), cover)
  return (picture for _, picture in read_several(path, [reading], start, duration))


def read_several(
  path: str | os.PathLike,
  readings: Sequence[Reading],
  start: float = 0.0,
  duration: float | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields (number of a reading, picture) of several readings, decoding once; else as `read_frames`."""
  begin = Fraction(float(start))
  wrong = [one for one in readings if one.rate <= 0 or (one.size and min(one.size) < 1)]
  if wrong or begin < 0 or (duration is not None and duration < 0):
    raise ValueError(
      f'Need rate > 0, start >= 0, duration >= 0 and size > 0: {readings}, {start=}, {duration=}.'
    )
  if duration is None:
    duration = _length(path) - start
    if duration <= 0:
      raise errors.MediaError(f'{os.fspath(path)}: its video ends before {start} s; choose an earlier start.')
  shots = [_Shots(one, begin, math.ceil(round(float(duration * one.rate), 6))) for one in readings]
  latest, held = None, None

  def wanted(shown_from: Fraction, until: Fraction | None) -> bool:
    return any(one.any_between(shown_from, until) for one in shots)

  for shown_from, frame in _decoded(path, begin, wanted):
    if latest is not None and shown_from < latest:
      continue  # a damaged time stamp
    latest = shown_from
    if held is not None:
      for number, one in enumerate(shots):
        while not one.ended and one.due < shown_from:
          yield number, one.taken(held)
    if all(one.ended for one in shots):
      return
    held = frame
    for one in shots:
      one.picture = None
  if held is None:
    raise errors.MediaError(f'{os.fspath(path)}: none of its frames decodes; copy or convert it again.')
  for number, one in enumerate(shots):
    while not one.ended:
      yield number, one.taken(held)


class _Shots:
  """The pictures that are taken for a reading.

  Attributes:
    due: when the next one is, in seconds.
    picture: of the frame that is held; None before it is asked for.
  """

  def __init__(self, reading: Reading, begin: Fraction, count: int):
    self._size, self._rate, self._begin, self._count = reading.size, reading.rate, begin, count
    self._cover, self._index, self.due, self.picture = reading.cover, 0, begin, None
    # One scaler: it is set up for a size once, which takes longer than scaling a picture.
    self._scaler = VideoReformatter()

  @property
  def ended(self) -> bool:
    """Whether all are taken."""
    return self._index == self._count

  def any_between(self, first: Fraction, until: Fraction | None) -> bool:
    """Whether one is due from `first` on and before `until`."""
    number = max(0, math.ceil((first - self._begin) * self._rate))
    return number < self._count and (until is None or self._begin + number / self._rate < until)

  def taken(self, frame: Any) -> np.ndarray:
    """The next one, of this frame."""
    if self.picture is None:
      self.picture = self._made(frame)
    self._index += 1
    self.due = self._begin + self._index / self._rate
    return self.picture

  def _made(self, frame: Any) -> np.ndarray:
    turned = orientation.of(frame)
    shown = (frame.width, frame.height)[:: -1 if turned.sideways else 1]
    size = self._size = self._size or shown
    scaled = _covering(shown, size) if self._cover else size
    width, height = scaled[::-1] if turned.sideways else scaled
    how = 'BICUBIC' if self._cover else 'AREA'
    made = self._scaler.reformat(frame, width, height, format='rgb24', interpolation=how, threads=1)
    picture = turned.applied(made.to_ndarray())
    left, top = ((scaled[axis] - size[axis]) // 2 for axis in (0, 1))
    picture = picture[top : top + size[1], left : left + size[0]]
    # A held frame is yielded again and again, so that writing to one would change the next.
    picture.flags.writeable = False
    return picture


def load_frames(
  path: str | os.PathLike,
  rate: Fraction | int | float,
  size: tuple[int, int] | None = None,
  start: float = 0.0,
  duration: float | None = None,
) -> np.ndarray:
  """Returns what `read_frames` yields as one array, uint8 [time, height, width, 3]; raises as it does."""
  pictures = list(read_frames(path, rate, size, start, duration))
  if not pictures:
    raise ValueError(f'A duration of {duration} s holds no picture; ask for a longer one.')
  return np.stack(pictures)


def timed_frames(opened: InputContainer, stream: Any) -> Iterator[tuple[int, Any]]:
  """Yields (presentation time in ticks of the stream's time base, frame), in decoding order.

  Frames without a time (elementary streams) follow one another at the stream's frame rate.
  """
  step = max(1, round(step_of(stream)))
  tick = -step
  for frame in container.decode(opened, stream):
    if frame.pts is not None:
      tick = frame.pts
    elif frame.dts is not None:
      tick = frame.dts
    else:
      tick += step
    yield tick, frame


def step_of(stream: Any) -> Fraction:
  """Ticks from a frame to the next by the stream's frame rate."""
  return 1 / (Fraction(stream.average_rate or stream.guessed_rate or 25) * stream.time_base)


def _length(path: str | os.PathLike) -> float:
  video = probe.probe(path).video
  if video is None:
    raise errors.MediaError(f'{os.fspath(path)}: it has no video stream; give a file with pictures.')
  return video.duration


def _decoded(
  path: str | os.PathLike, begin: Fraction, wanted: Callable[[Fraction, Fraction | None], bool]
) -> Iterator[tuple[Fraction, Any]]:
  """Yields (first time in seconds at which it is on screen, frame) from the one at `begin` or before.

  Frames of which `wanted`, given that time and the next frame's, says no may be missing.
  """
  # Seeking is to a keyframe at or before `begin`. Where the index misleads and it lands later, or
  # on nothing, the file is read from its start instead.
  for seek in (True, False) if begin > 0 else (False,):
    with container.open_media(path) as opened:
      stream = container.video_stream(opened, path)
      # Of several processes each has a core, and threads cost a fifth more time in all.
      stream.thread_type = 'NONE' if workers.is_worker() else 'AUTO'
      if seek and not container.is_timed(opened):
        continue
      zero = stream.start_time or 0
      target = zero + math.floor(begin / stream.time_base)
      if seek:
        try:
          opened.seek(target, stream=stream)
        except av.error.FFmpegError:
          continue

      clock = _Clock(zero, stream.time_base)
      for tick, frame in _timed(opened, stream, lambda span, clock=clock: wanted(*map(clock.seconds, span))):
        if seek and tick > target:
          break
        seek = False
        yield clock.seconds(tick), frame
      else:
        if not seek:
          return


@dataclasses.dataclass(frozen=True)
class _Clock:
  """When frames are on screen: `zero` in ticks, `base` in seconds."""

  zero: int
  base: Fraction

  def seconds(self, tick: int | None) -> Any:
    """Half a tick is forgiven; None stays None."""
    return None if tick is None else (tick - self.zero - Fraction(1, 2)) * self.base


def _timed(
  opened: InputContainer, stream: Any, wanted: Callable[[tuple[int, int | None]], bool]
) -> Iterator[tuple[int, Any]]:
  """As `timed_frames`, without frames that neither are wanted nor have to be decoded for others."""
  if stream.codec_context.name not in _SKIPPABLE or not container.is_timed(opened):
    yield from timed_frames(opened, stream)
    return
  coming: collections.deque = collections.deque()
  stamps: list[int] = []  # of packets that came or are coming, in order
  tick, step = 0, max(1, round(step_of(stream)))
  for packet in itertools.chain(container.packets(opened, stream), [None] * _AHEAD):
    coming.append(packet)
    if packet is not None and packet.pts is not None:
      bisect.insort(stamps, packet.pts)
    if len(coming) <= _AHEAD:
      continue
    packet = coming.popleft()
    if packet is None:
      break
    stamp, needed = packet.pts, True
    if stamp is not None and packet.size:
      after = bisect.bisect_right(stamps, stamp)
      needed = packet.is_keyframe or wanted((stamp, stamps[after] if after < len(stamps) else None))
      del stamps[: max(0, after - _AHEAD)]
    stream.codec_context.skip_frame = 'DEFAULT' if needed else 'NONREF'
    for frame in container.decode_packet(packet):
      tick = next((told for told in (frame.pts, frame.dts) if told is not None), tick + step)
      yield tick, frame
  # Where the file is cut off the decoder has not been told of the end, and holds frames back.
  with contextlib.suppress(av.error.FFmpegError):
    for frame in stream.decode(None):
      tick = next((told for told in (frame.pts, frame.dts) if told is not None), tick + step)
      yield tick, frame


def _covering(shown: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
  """The least (width, height) of the shape that is shown which covers `size`."""
  scale = max(Fraction(size[axis], shown[axis]) for axis in (0, 1))
  return max(size[0], int(shown[0] * scale)), max(size[1], int(shown[1] * scale))
