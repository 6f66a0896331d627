import itertools
import math
from fractions import Fraction

import pytest

from v2meow_jax.generation import windows
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

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
def test_windows_are_a_stride_apart_but_for_the_last(grid, overlap):
  for _, window, starts in every_case(grid, overlap):
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert len(set(steps[:-1])) <= 1
    if len(steps) > 1:
      stride = window * (1 - Fraction(str(overlap)))
      assert max(stride - 1 / grid, 0) < steps[0] <= max(stride, 1 / grid)
      assert steps[-1] <= steps[0]


@CASES
def test_a_longer_clip_begins_with_the_same_windows(grid, overlap):
  for window in WINDOWS:
    long = windows.starts(window * 9, window, overlap, grid)
    for duration in durations(window):
      own = windows.starts(min(duration, 7 * window), window, overlap, grid)
      assert own[:-1] == long[: len(own) - 1]


@pytest.mark.parametrize('duration', [Fraction(1, 10), Fraction(4), Fraction(10)])
def test_a_clip_no_longer_than_a_window_has_one(duration):
  assert windows.starts(duration, Fraction(10), 0.5, Fraction(4)) == [0]


def test_a_whole_number_of_strides_is_met_exactly():
  assert windows.starts(Fraction(30), Fraction(10), 0.5, Fraction(4)) == [0, 5, 10, 15, 20]
  assert windows.starts(Fraction(30), Fraction(10), 0.0, Fraction(4)) == [0, 10, 20]
  assert windows.starts(Fraction(32), Fraction(10), 0.5, Fraction(4)) == [0, 5, 10, 15, 20, 22]


def stage_of(rate, crop, condition_rate=4):
  motion = Stream('video/motion', 'embedding', condition_rate, 2)
  return Stage('s', (Condition(motion),), Target(Stream('audio/semantic', 'tokens', rate, 1, 8)), crop)


@pytest.mark.parametrize('overlap', OVERLAPS)
@pytest.mark.parametrize(('rate', 'crop'), [(25, 4), (Fraction(50, 3), 2), (75, Fraction(5, 2)), (7, 3)])
def test_every_frame_of_a_clip_is_in_a_window_and_carried_ones_are_there(rate, crop, overlap):
  stage = stage_of(rate, crop)
  carried = set()
  for duration in durations(Fraction(crop)):
    layout = windows.layout(stage, duration, overlap)
    assert layout.frames == math.ceil(duration * rate)
    assert layout.windows[-1].stop == layout.frames
    for before, after in itertools.pairwise(layout.windows):
      # Without overlap rounding may leave a frame out between two windows.
      assert after.first <= before.stop + (layout.carried == 0)
      assert after.stop - after.first <= stage.frames
    for before, after in itertools.pairwise(layout.windows[:-1]):
      assert before.first + stage.frames - after.first >= layout.carried - (overlap == 0)
    carried.add(layout.carried)
  assert len(carried) == 1
  assert carried.pop() >= stage.frames * overlap - rate / 4 - 2
