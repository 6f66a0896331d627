"""Pictures encoded again as H.264: as they are displayed, in their shape and their colours."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from av.container import InputContainer, OutputContainer

from v2meow_jax.media import colours, frames, orientation

FINE = 10_000  # ticks a second of films, at least
_LONGER_SIDE = 1920


def h264(
  source: InputContainer, stream: Any, out: OutputContainer, end: Any, *, playable: bool
) -> Iterator[Any]:
  """Adds H.264 to `out` and returns its packets, which start at 0 and stop at `end` ticks.

  Args:
    source, stream: the pictures.
    out: takes a stream.
    end: ticks of the source at which the last picture ends.
    playable: as browsers play it, and no larger than they show.
  """
  target = out.add_stream('libx264', rate=stream.average_rate or stream.guessed_rate or 25)
  target.pix_fmt = 'yuv420p'
  # A browser does not wait for hours: what is shown in one is smaller and encoded faster.
  # Without reordering, decoding and presentation times are one, and the film ends to the tick.
  target.options = {'crf': '18', 'bf': '0', 'preset': 'veryfast' if playable else 'medium'}
  # Finer than the file's, so that the last picture can end anywhere.
  fine = max(1, math.ceil(stream.time_base * FINE))
  target.codec_context.time_base = stream.time_base / fine
  longer = _LONGER_SIDE if playable else 0
  return _encoded(source, stream, target, end, longer, fine)


def latest_begin(end: Any, base: Fraction) -> Any:
  """Ticks at which no picture begins any more of a film that ends at `end`: it would be gone at once."""
  return end - min(Fraction(1, 2), Fraction(1, 1000) / base)


def _encoded(
  source: InputContainer, stream: Any, target: Any, end: Any, longer: int, fine: int
) -> Iterator[Any]:
  size, lasting = None, {}  # of each picture, in fine ticks
  turn: colours.Turn = None  # type: ignore[assignment] (made with the first picture)
  for tick, frame, until in _shown(source, stream, end):
    if size is None:
      # H.264 in 4:2:0 has even sides only.
      scale = min(1, longer / max(frame.width, frame.height)) if longer else 1
      size = (max(2, int(frame.width * scale) // 2 * 2), max(2, int(frame.height * scale) // 2 * 2))
      turn = colours.Turn.of(stream, frame)
      _describe(target, stream, frame, size, turn)
    picture = turn.applied(frame, size)
    picture.pts, picture.time_base = tick * fine, stream.time_base / fine
    lasting[picture.pts] = max(1, round((until - tick) * fine))
    # Left as decoded, the type of each picture would be imposed on the encoder.
    picture.pict_type = 0
    yield from _told(target.encode(picture), lasting)
  if size is not None:
    yield from _told(target.encode(None), lasting)


def _shown(source: InputContainer, stream: Any, end: Any) -> Iterator[tuple[int, Any, Any]]:
  """Yields (first tick, frame, tick at which it is gone) of a film that begins at 0 and stops at `end`."""
  zero, latest, step = stream.start_time or 0, latest_begin(end, stream.time_base), frames.step_of(stream)
  held: tuple[int, Any] | None = None
  for tick, frame in frames.timed_frames(source, stream):
    tick -= zero
    if held is not None and tick <= held[0]:
      continue
    if held is not None:
      yield *held, min(tick, end)
    if tick >= latest:
      return
    held = tick, frame
  if held is not None:
    own = Fraction(held[1].duration or 0) or step
    yield *held, min(held[0] + own, end)


def _describe(target: Any, stream: Any, frame: Any, size: tuple[int, int], turn: colours.Turn) -> None:
  """Tells the encoder what the file says of its pictures."""
  target.width, target.height = size
  shape = stream.sample_aspect_ratio
  if shape:  # the sides may have been rounded by different shares
    across, down = Fraction(size[0], frame.width), Fraction(size[1], frame.height)
    exact = abs(across / down - 1) < Fraction(1, 50)
    target.codec_context.sample_aspect_ratio = shape if exact else shape * down / across
  turn.describe(target.codec_context)
  matrix = orientation.matrix_of(frame)
  if matrix is not None:
    target.set_display_matrix(orientation.entries(matrix))


def _told(packets: Any, lasting: dict[int, int]) -> Iterator[Any]:
  """Packets with how long their pictures are shown."""
  for packet in packets:
    packet.duration = lasting.pop(packet.pts)
    yield packet
