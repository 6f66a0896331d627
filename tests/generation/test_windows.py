import itertools
from fractions import Fraction

import pytest

from v2meow_jax.generation import windows

GRIDS = [Fraction(1), Fraction(4), Fraction(25), Fraction(1, 2)]
WINDOWS = [Fraction(4), Fraction(10)]
OVERLAPS = [0.0, 0.25, 0.5, 0.66, 0.9]


def durations(window):
  yield from (Fraction(1, 2), window, window + Fraction(1, 100))
  yield from (window + Fraction(n * 37, 30) for n in range(1, 60))
  yield from (window * n for n in (2, 3, 7))


def every_case(grid, overlap):
  for window in WINDOWS:
    for duration in durations(window):
      yield duration, window, windows.starts(duration, window, overlap, grid)


CASES = pytest.mark.parametrize(('grid', 'overlap'), list(itertools.product(GRIDS, OVERLAPS)))


@CASES
def test_starts_ascend_from_zero_on_the_grid(grid, overlap):
  for duration, window, starts in every_case(grid, overlap):
    assert starts[0] == 0
    assert all((start * grid).denominator == 1 for start in starts)
    assert all(a < b for a, b in itertools.pairwise(starts)), (duration, window, starts)


@CASES
def test_windows_leave_no_hole_and_end_with_the_clip(grid, overlap):
  for duration, window, starts in every_case(grid, overlap):
    assert all(b <= a + window for a, b in itertools.pairwise(starts)), (duration, window, starts)
    end = starts[-1] + window
    assert end >= duration
    if duration > window:
      assert end - duration < 1 / grid


@CASES
def test_windows_overlap_as_asked_less_one_element_of_the_grid(grid, overlap):
  for duration, window, starts in every_case(grid, overlap):
    for a, b in itertools.pairwise(starts):
      assert a + window - b >= window * Fraction(str(overlap)) - 1 / grid, (duration, window, starts)


@CASES
def test_there_are_no_more_windows_than_whole_elements_need(grid, overlap):
  for duration, window, starts in every_case(grid, overlap):
    stride = max(window * (1 - Fraction(str(overlap))) - 1 / grid, 1 / grid)
    assert len(starts) <= 2 + max(duration - window, 0) / stride


@pytest.mark.parametrize('duration', [Fraction(1, 10), Fraction(4), Fraction(10)])
def test_a_clip_no_longer_than_a_window_has_one(duration):
  assert windows.starts(duration, Fraction(10), 0.5, Fraction(4)) == [0]


def test_a_whole_number_of_strides_is_met_exactly():
  assert windows.starts(Fraction(30), Fraction(10), 0.5, Fraction(4)) == [0, 5, 10, 15, 20]
  assert windows.starts(Fraction(30), Fraction(10), 0.0, Fraction(4)) == [0, 10, 20]
