"""Where the windows of a long clip lie."""

import dataclasses
import itertools
import math
from fractions import Fraction

from v2meow_jax.stages import Stage


def starts(duration: Fraction, window: Fraction, overlap: float, grid: Fraction) -> list[Fraction]:
  """Starts in seconds of windows of `window` seconds that cover `duration`.

  They are a stride apart, the share `overlap` less than a window; the last is moved back to where it ends
  with the clip, so that a model sees whole windows only, except where the clip is shorter than one. The
  first n windows are those of any longer clip. Starts lie on the grid of `grid` Hz.
  """
  stride = max(1, math.floor(window * (1 - Fraction(overlap).limit_denominator(1000)) * grid)) / grid
  last = max(Fraction(0), math.ceil((duration - window) * grid) / grid)
  regular = itertools.takewhile(lambda start: start < last, (stride * n for n in itertools.count()))
  return [*regular, last]


@dataclasses.dataclass(frozen=True)
class Window:
  """A window of a stage's target.

  Attributes:
    number: of the window within the clip.
    start: in seconds.
    first: frame of the target that it begins with.
    stop: frame after the last that is wanted of it.
  """

  number: int
  start: Fraction
  first: int
  stop: int


@dataclasses.dataclass(frozen=True)
class Layout:
  """A clip's windows in one stage.

  Attributes:
    windows: in order.
    frames: of the target in the clip.
    carried: frames that every window but the first, and at times the last, has from those before it, or more.
  """

  windows: tuple[Window, ...]
  frames: int
  carried: int

  @property
  def independent(self) -> bool:
    """Whether no window is given anything of the one before."""
    return not self.carried


def layout(stage: Stage, duration: Fraction, overlap: float) -> Layout:
  """Where a stage's windows lie in a clip of `duration` seconds."""
  stream, crop = stage.target.stream, stage.crop_seconds
  frames = math.ceil(duration * stream.rate)
  grid = min(stream.rate for stream in stage.streams if stream.rate)
  places = starts(duration, crop, overlap, grid)
  if stream.index(places[-1]) + stage.frames < frames:
    places.append(places[-1] + 1 / grid)  # rounding to elements had left the last one out
  firsts = [stream.index(start) for start in places]
  windows = tuple(
    Window(number, start, first, min(frames, first + stage.frames))
    for number, (start, first) in enumerate(zip(places, firsts, strict=True))
  )
  # Rounding makes some strides a frame longer: the same number must hold for any clip, so that the loop is
  # compiled once for all, and clips of different lengths share a batch.
  stride = (starts(duration + 2 * crop, crop, overlap, grid)[1]) * stream.rate
  return Layout(windows, frames, max(0, stage.frames - math.ceil(stride)) if overlap else 0)
