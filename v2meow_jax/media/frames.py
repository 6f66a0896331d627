"""The pictures of a video at an exact rate, whatever the rate or irregularity of the file's own."""

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av.error
import numpy as np
from av.container import InputContainer

from v2meow_jax import errors
from v2meow_jax.media import container, orientation, probe


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
  end: the clip stays usable and keeps its length.

  Args:
    path: a local video file.
    rate: pictures a second, in Hz.
    size: (width, height) in pixels to scale to, by area; the first frame's displayed size if None.
    start: seconds from the first frame.
    duration: seconds, giving `ceil(duration * rate)` pictures; to the end of the video if None.
    cover: keep the shape of what is seen: scale, bicubically, until the size is just covered, and cut out
      the middle, as networks for pictures are given theirs.

  Yields:
    read-only uint8 [height, width, 3] RGB, turned as it is displayed.

  Raises:
    errors.MediaError: the file cannot be read, has no video, ends before `start` or has no frame that
      decodes. Raised when the first picture is asked for.
    ValueError: `rate` or `size` is not positive, or `start` or `duration` is negative.
  """
  rate, begin = Fraction(rate), Fraction(float(start))
  if rate <= 0 or begin < 0 or (duration is not None and duration < 0) or (size and min(size) < 1):
    raise ValueError(
      f'Need rate > 0, start >= 0, duration >= 0 and size > 0: {rate=}, {start=}, {duration=}.'
    )
  if duration is None:
    duration = _length(path) - start
    if duration <= 0:
      raise errors.MediaError(f'{os.fspath(path)}: its video ends before {start} s; choose an earlier start.')
  count = math.ceil(round(float(duration * rate), 6))
  index, held, picture, latest = 0, None, None, None
  for shown_from, frame in _decoded(path, begin):
    if latest is not None and shown_from < latest:
      continue  # a damaged time stamp
    latest = shown_from
    while held is not None and index < count and begin + index / rate < shown_from:
      if picture is None:
        size = size or _displayed_size(held)
        picture = _picture(held, size, cover)
      yield picture
      index += 1
    if index == count:
      return
    held, picture = frame, None
  if held is None:
    raise errors.MediaError(f'{os.fspath(path)}: none of its frames decodes; copy or convert it again.')
  picture = _picture(held, size or _displayed_size(held), cover)
  for _ in range(index, count):
    yield picture


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


def _decoded(path: str | os.PathLike, begin: Fraction) -> Iterator[tuple[Fraction, Any]]:
  """Yields (first time in seconds at which it is on screen, frame) from the one at `begin` or before."""
  # Seeking is to a keyframe at or before `begin`. Where the index misleads and it lands later, or
  # on nothing, the file is read from its start instead.
  for seek in (True, False) if begin > 0 else (False,):
    with container.open_media(path) as opened:
      stream = container.video_stream(opened, path)
      stream.thread_type = 'AUTO'
      if seek and not container.is_timed(opened):
        continue
      zero = stream.start_time or 0
      target = zero + math.floor(begin / stream.time_base)
      if seek:
        try:
          opened.seek(target, stream=stream)
        except av.error.FFmpegError:
          continue
      for tick, frame in timed_frames(opened, stream):
        if seek and tick > target:
          break
        seek = False
        yield (tick - zero - Fraction(1, 2)) * stream.time_base, frame
      else:
        if not seek:
          return


def _displayed_size(frame: Any) -> tuple[int, int]:
  size = (frame.width, frame.height)
  return size[::-1] if orientation.of(frame).sideways else size


def _picture(frame: Any, size: tuple[int, int], cover: bool) -> np.ndarray:
  turned = orientation.of(frame)
  scaled = _covering(_displayed_size(frame), size) if cover else size
  width, height = scaled[::-1] if turned.sideways else scaled
  how = 'BICUBIC' if cover else 'AREA'
  picture = turned.applied(frame.reformat(width, height, format='rgb24', interpolation=how).to_ndarray())
  left, top = ((scaled[axis] - size[axis]) // 2 for axis in (0, 1))
  picture = picture[top : top + size[1], left : left + size[0]]
  # A held frame is yielded again and again, so that writing to one would change the next.
  picture.flags.writeable = False
  return picture


def _covering(shown: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
  """The least (width, height) of the shape that is shown which covers `size`."""
  scale = max(Fraction(size[axis], shown[axis]) for axis in (0, 1))
  return max(size[0], int(shown[0] * scale)), max(size[1], int(shown[1] * scale))
