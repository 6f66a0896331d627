"""Where the windows of a long clip lie."""

import math
from fractions import Fraction


def starts(duration: Fraction, window: Fraction, overlap: float, grid: Fraction) -> list[Fraction]:
  """Starts in seconds of windows of `window` seconds that cover `duration`.

  They are spread evenly, so that each overlaps the one before by at least the share `overlap` (less
  one element of the grid) and the last ends with the clip: a model sees whole windows only, except
  where the clip is shorter than one. Starts lie on the grid of `grid` Hz.
  """
  span = duration - window
  if span <= 0:
    return [Fraction(0)]
  stride = max(window * (1 - Fraction(overlap).limit_denominator(1000)), 1 / grid)
  count = math.ceil(span / stride)
  # The last one is rounded up, so that it reaches the end.
  return [Fraction(math.floor(span * grid * n / count)) / grid for n in range(count)] + [
    Fraction(math.ceil(span * grid)) / grid
  ]
