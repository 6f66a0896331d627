import types
from fractions import Fraction

import numpy as np
import pytest

from v2meow_jax.encoders import motion
from v2meow_jax.encoders.motion import COLUMNS, MotionEncoder

# Luma of ITU-R BT.601.
RED, GREEN, BLUE = 0.299, 0.587, 0.114
ENCODER = MotionEncoder()


def solid(*colours, size=(64, 36)):
  return np.stack([np.full((size[1], size[0], 3), colour, np.uint8) for colour in colours])


def column(frames, name):
  return ENCODER.measure(frames)[:, COLUMNS.index(name)]


def noise(count, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (count, 36, 64, 3), dtype=np.uint8)


def test_a_still_picture_has_no_motion_no_flash_and_no_cut():
  frames = np.repeat(noise(1), 9, 0)
  measured = ENCODER.measure(frames)
  assert measured.shape == (3, len(COLUMNS)) and measured.dtype == np.float32
  for name in ('motion', 'motion_peak', 'flash', 'cut'):
    np.testing.assert_array_equal(measured[:, COLUMNS.index(name)], 0)
  # All elements are the same up to the order of float32 sums.
  np.testing.assert_allclose(measured[0], measured[2], atol=1e-6)


@pytest.mark.parametrize('value', [0, 51, 128, 255])
def test_a_grey_picture_has_its_brightness_and_neither_colour_nor_contrast(value):
  frames = solid((value,) * 3, (value,) * 3, (value,) * 3)
  # float32 rounding of means, times the columns' factors of up to 10.
  assert column(frames, 'brightness') == pytest.approx([2 * value / 255 - 1], abs=1e-5)
  for name in ('contrast', 'red', 'blue', 'saturation', 'detail'):
    assert column(frames, name) == pytest.approx([0], abs=1e-5)


@pytest.mark.parametrize(
  ('colour', 'brightness', 'red', 'blue'),
  [
    ((255, 0, 0), 2 * RED - 1, 4 * (1 - RED), -4 * RED),
    ((0, 255, 0), 2 * GREEN - 1, -4 * GREEN, -4 * GREEN),
    ((0, 0, 255), 2 * BLUE - 1, -4 * BLUE, 4 * (1 - BLUE)),
  ],
)
def test_a_pure_colour_has_the_closed_form_of_its_channels(colour, brightness, red, blue):
  frames = solid(colour, colour, colour)
  # float32 rounding of means.
  assert column(frames, 'brightness') == pytest.approx([brightness], abs=1e-5)
  assert column(frames, 'red') == pytest.approx([red], abs=1e-5)
  assert column(frames, 'blue') == pytest.approx([blue], abs=1e-5)
  assert column(frames, 'saturation') == pytest.approx([2], abs=1e-5)


def test_stripes_have_the_contrast_and_detail_of_a_square_wave():
  frames = np.zeros((3, 36, 64, 3), np.uint8)
  frames[:, :, ::2] = 255
  # Half of the pixels 0 and half 1: deviation 1/2. Every neighbour differs by 1.
  assert column(frames, 'contrast') == pytest.approx([2], abs=1e-5)
  assert column(frames, 'detail') == pytest.approx([10], abs=1e-5)


def test_flicker_has_the_closed_form_of_motion_and_flash():
  levels = [0, 0, 0, 102, 0, 102, 102, 102, 102]
  frames = solid(*[(v,) * 3 for v in levels])
  d = 102 / 255
  changes = np.array([[0, 0, 0], [d, d, d], [0, 0, 0]])
  # float32 rounding of means.
  np.testing.assert_allclose(column(frames, 'motion'), np.log1p(200 * changes.mean(1)) / 4, atol=1e-5)
  np.testing.assert_allclose(column(frames, 'motion_peak'), np.log1p(200 * changes.max(1)) / 4, atol=1e-5)
  means = np.array([0, 2 / 3 * d, d])
  np.testing.assert_allclose(column(frames, 'flash'), [0, 5 * means[1], 5 * (means[2] - means[1])], atol=1e-5)


def test_the_peak_of_an_element_is_above_its_mean_where_one_frame_moves():
  frames = solid(*[(v,) * 3 for v in (0, 0, 0, 0, 102, 102)])
  # float32 rounding of means.
  np.testing.assert_allclose(column(frames, 'motion')[1], np.log1p(200 * 0.4 / 3) / 4, atol=1e-5)
  np.testing.assert_allclose(column(frames, 'motion_peak')[1], np.log1p(200 * 0.4) / 4, atol=1e-5)


@pytest.mark.parametrize(('cut', 'element'), [(3, 1), (4, 1), (5, 1), (6, 2), (11, 3)])
def test_a_cut_shows_in_the_element_of_its_first_frame_and_in_no_other(cut, element):
  frames = solid(*[(200, 30, 30) if i < cut else (10, 90, 250) for i in range(12)])
  expected = np.zeros(4)
  expected[element] = 1  # no colour in common
  np.testing.assert_array_equal(column(frames, 'cut'), expected)


def test_a_quarter_of_the_picture_that_changes_colour_is_a_quarter_of_a_cut():
  frames = solid(*[(0, 0, 0)] * 6)
  frames[4:, :18, :32] = 255
  np.testing.assert_allclose(column(frames, 'cut'), [0, 0.25], atol=1e-7)  # exact in binary but for the mean


@pytest.mark.parametrize(
  ('moving', 'still', 'where'),
  [
    ('motion_left', 'motion_right', np.s_[:, :, :32]),
    ('motion_right', 'motion_left', np.s_[:, :, 32:]),
    ('motion_top', 'motion_bottom', np.s_[:, :18]),
    ('motion_bottom', 'motion_top', np.s_[:, 18:]),
  ],
)
def test_motion_in_one_half_shows_on_that_side(moving, still, where):
  frames = np.repeat(noise(1), 9, 0)
  frames[where] = noise(9, seed=1)[where]
  np.testing.assert_array_equal(column(frames, still), -1)
  # All of the motion is in half of the picture: twice the mean, less the floor of 0.001 in the quotient.
  assert (column(frames, moving) > 0.9).all() and (column(frames, moving) < 1).all()


class FakeClip:
  """Frames by their number; reads `available` seconds of video."""

  def __init__(self, duration, available):
    self.duration, self.available, self.asked = duration, available, None

  def frames(self, rate, size):
    self.asked = (rate, size)
    yield from noise(int(self.available * rate))


def test_a_clip_has_the_elements_of_its_duration_from_frames_of_the_right_rate_and_size():
  clip = FakeClip(2, 2)
  measured = ENCODER.encode_clip(clip)
  assert clip.asked == (12, (64, 36))
  np.testing.assert_array_equal(measured, ENCODER.measure(noise(24)))
  assert len(measured) == ENCODER.stream.length(2) == 8


def test_a_video_that_ends_early_stands_still_on_its_last_frame():
  moved = ENCODER.encode_clip(FakeClip(2, 1))[:, COLUMNS.index('motion')]
  assert (moved[:4] > 0).all()
  np.testing.assert_array_equal(moved[4:], 0)


@pytest.mark.parametrize(('piece', 'seconds'), [(3, 2), (4, 2), (1, 2), (3, 1)])
def test_measuring_in_pieces_is_measuring_the_whole(monkeypatch, piece, seconds):
  whole = ENCODER.encode_clip(FakeClip(2, seconds))
  monkeypatch.setattr(motion, 'PIECE', piece)
  np.testing.assert_array_equal(ENCODER.encode_clip(FakeClip(2, seconds)), whole)


def test_the_stream_and_the_identity_name_the_settings():
  encoder = MotionEncoder('5/2', 2, [32, 18])
  assert encoder.stream.rate == Fraction(5, 2)
  assert encoder.stream.width == len(COLUMNS) == len(set(COLUMNS))
  assert encoder.identity != ENCODER.identity
  assert encoder.measure(solid((0, 0, 0), (0, 0, 0), size=(32, 18))).shape == (1, len(COLUMNS))
  assert isinstance(MotionEncoder.encode_clip, types.FunctionType)
