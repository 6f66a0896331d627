"""Where the windows of a long clip lie."""

from fractions import Fraction


def starts(duration: Fraction, window: Fraction, overlap: float, grid: Fraction) -> list[Fraction]:
  """Starts in seconds of windows of `window` seconds that cover `duration`.

  Each overlaps the one before by about the share `overlap`; starts lie on the grid of `grid` Hz. The
  last window is moved back so that it ends with the clip: a model sees whole windows only, except
  where the clip is shorter than one.
  """
  if duration <= window:
    return [Fraction(0)]
  stride = max(Fraction(int(window * Fraction(1 - overlap).limit_denominator(1000) * grid)), Fraction(1)) / grid
  last = Fraction(-int(-(duration - window) * grid // 1)) / grid
  found = []
  start = Fraction(0)
  while start < last:
    found.append(start)
    start += stride
  return [*found, last]
