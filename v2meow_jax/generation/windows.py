"""Where the windows of a long clip lie."""

import math
from fractions import Fraction


def starts(duration: Fraction, window: Fraction, overlap: float, grid: Fraction) -> list[Fraction]:
  """Starts in seconds of windows of `window` seconds that cover `duration`.

  They are spread evenly, so that each overlaps the one before by at least the share `overlap` where
  the grid allows it, and the last ends with the clip: a model sees whole windows only, except where
  the clip is shorter than one. Starts lie on the grid of `grid` Hz.
  """
  span = duration - window
  if span <= 0:
    return [Fraction(0)]
  elements = math.ceil(span * grid)
  stride = max(1, math.floor(window * (1 - Fraction(overlap).limit_denominator(1000)) * grid))
  count = math.ceil(Fraction(elements, stride))
  return [Fraction(elements * n // count) / grid for n in range(count + 1)]
