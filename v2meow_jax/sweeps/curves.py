"""Curves of a metric as a picture that stands in a page: SVG, without anything to be loaded."""

import html
import math
from collections.abc import Mapping, Sequence

COLOURS = ('#1f77b4', '#d62728', '#2ca02c', '#9467bd', '#ff7f0e', '#17becf', '#8c564b', '#e377c2', '#7f7f7f')
_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 30, 14, 40

Curve = Sequence[tuple[int, float]]


def colour(number: int) -> str:
  """Of the row with this number."""
  return COLOURS[number % len(COLOURS)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
  """Round numbers between two, about so many: 1, 2 or 5 times a power of ten apart."""
  if not high > low:
    return [low]
  raw = (high - low) / count
  unit = 10 ** math.floor(math.log10(raw))
  step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw)
  first = math.ceil(low / step - 1e-9)
  return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(curves: Mapping[int, Mapping[int, Curve]], names: Sequence[str], label: str) -> str:
  """The picture; empty where there is nothing to draw.

  Seeds of a row are thin lines, their mean a thick one. Values far above the median are cut off, so that a
  first value or a run that diverged does not press the others together.

  Args:
    curves: number of the row -> seed -> (step, value).
    names: of the rows.
    label: of the vertical axis.
  """
  finite = {
    row: [[(s, v) for s, v in curve if math.isfinite(v)] for curve in by_seed.values()]
    for row, by_seed in curves.items()
  }
  points = [point for by_seed in finite.values() for curve in by_seed for point in curve]
  if len(points) < 2:
    return ''
  values = sorted(value for _, value in points)
  low, high = values[0], values[-1]
  middle = values[len(values) // 2]
  if high - middle > 4 * (middle - low) > 0:
    high = middle + 4 * (middle - low)
  if high == low:
    high = low + max(abs(low), 1e-9) * 0.01
  first, last = min(step for step, _ in points), max(step for step, _ in points)
  span = max(last - first, 1)

  def x(step: float) -> float:
    return _LEFT + (step - first) / span * (_WIDTH - _LEFT - _RIGHT)

  def y(value: float) -> float:
    share = (min(value, high) - low) / (high - low)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

  parts = []
  for value in ticks(low, high):
    parts.append(
      f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" class="grid"/>'
    )
    parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
  for step in ticks(first, last, 6):
    parts.append(f'<text x="{x(step):.1f}" y="{_HEIGHT - 21}" text-anchor="middle">{step:g}</text>')
  parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 2}" text-anchor="middle">step</text>')
  for row, by_seed in finite.items():
    many = len(by_seed) > 1
    for curve in by_seed:
      parts.append(_line(curve, x, y, colour(row), 0.8 if many else 2, 0.45 if many else 1, names[row]))
    if many:
      parts.append(_line(_mean(by_seed), x, y, colour(row), 2.2, 1, names[row]))
  told = html.escape(label)
  return (
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{told} by step">'
    f'<title>{told} by step</title>{"".join(parts)}</svg>'
  )


def _mean(curves: Sequence[Curve]) -> list[tuple[int, float]]:
  at: dict[int, list[float]] = {}
  for curve in curves:
    for step, value in curve:
      at.setdefault(step, []).append(value)
  return [(step, sum(found) / len(found)) for step, found in sorted(at.items()) if len(found) == len(curves)]


def _line(curve: Curve, x, y, stroke: str, width: float, opacity: float, name: str) -> str:
  told = html.escape(name)
  if len(curve) == 1:
    step, value = curve[0]
    return (
      f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="3" fill="{stroke}"><title>{told}</title></circle>'
    )
  path = ' '.join(f'{x(step):.1f},{y(value):.1f}' for step, value in curve)
  return (
    f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width}" opacity="{opacity}">'
    f'<title>{told}</title></polyline>'
  )
