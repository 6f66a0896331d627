import types

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.encoders import registry
from v2meow_jax.encoders.events import COLUMNS, ENTRY, EventEncoder

ENCODER = EventEncoder()  # 12.5 elements of 2 frames a second
FPS = 25


def film(seconds, seed=0):
  """A still picture of mid greys, [frames, 36, 64, 3]."""
  rng = np.random.default_rng(seed)
  picture = rng.integers(80, 140, (36, 64, 3))
  return np.repeat(picture[None], round(seconds * FPS), 0).astype(np.uint8)


def marks(frames):
  """By column: (seconds, strength) of each mark."""
  measured = ENCODER.measure(frames)
  return {
    name: [(float(n / 12.5), float(measured[n, c])) for n in np.flatnonzero(measured[:, c])]
    for c, name in enumerate(COLUMNS)
  }


def moving(frames, start, step):
  """The pictures pushed to the side from `start` seconds on, `step` pixels a frame."""
  moved = frames.copy()
  for n in range(round(start * FPS), len(frames)):
    moved[n] = np.roll(frames[n], step * (n - round(start * FPS) + 1), 1)
  return moved


def test_nothing_happens_in_a_still_picture_nor_in_steady_motion():
  assert marks(film(6)) == {'cut': [], 'motion_onset': [], 'flash': []}
  steady = marks(moving(film(6), 0.04, 2))
  assert not steady['cut'] and not steady['flash']
  assert all(time < 0.2 for time, _ in steady['motion_onset'])  # where it begins


def test_a_cut_is_marked_where_it_is_and_alone():
  frames = film(6)
  frames[75:] = 255 - frames[75:] // 4  # 3 s
  found = marks(frames)
  ((time, strength),) = found['cut']
  assert abs(time - 3) <= 0.08 and strength > 0.9
  assert not found['flash'] and not found['motion_onset']


def test_a_flash_is_marked_by_how_much_lighter_it_gets():
  strengths = []
  for more in (20, 40):
    frames = film(6)
    frames[75:78] = np.clip(frames[75:78].astype(int) + more, 0, 255)
    frames = np.where(frames < 128, frames, 127).astype(np.uint8)  # colours stay in their quarter
    found = marks(frames)
    assert not found['cut']
    ((time, strength),) = found['flash']
    assert abs(time - 3) <= 0.16
    strengths.append(strength)
  assert 0.04 < strengths[0] < strengths[1]


def test_motion_that_sets_in_is_marked_by_how_strong_it_is():
  strengths = []
  for step in (1, 6):
    found = marks(moving(film(6), 3, step))
    ((time, strength),) = found['motion_onset']
    assert abs(time - 3) <= 0.12 and not found['cut']
    strengths.append(strength)
  smooth = np.repeat(np.linspace(80, 140, 64).astype(np.uint8)[None, :, None], 3, 2)[None]
  gentle = marks(moving(np.repeat(np.repeat(smooth, 36, 1), 150, 0), 3, 1))
  assert not gentle['cut']
  assert strengths[0] > 0.25


def test_a_film_of_fewer_frames_a_second_has_the_same_marks():
  frames = moving(film(6), 3, 3)
  frames[25:] = np.roll(255 - frames[25:] // 3, 1, 2)  # and a cut at 1 s
  twelve = frames[::2].repeat(2, 0)
  one, other = marks(frames), marks(twelve)
  for name in ('cut', 'motion_onset'):
    assert len(one[name]) == len(other[name]) == 1
    assert one[name][0][0] == pytest.approx(other[name][0][0], abs=0.17)


def busy(seconds):
  rng = np.random.default_rng(4)
  frames = film(seconds)
  for n in range(0, len(frames), 45):
    frames[n:] = np.roll(frames[n:], rng.integers(1, 30), 1)
    frames[n : n + 12] = rng.integers(0, 255, frames.shape[1:])
    frames[n + 20 : n + 22] += 60
  return moving(frames, seconds / 2, 1)


@pytest.mark.parametrize(('there', 'wanted'), [(24.0, 24.0), (9.3, 9.3), (9.3, 12.0), (0.5, 0.5)])
def test_a_film_read_as_it_comes_has_the_marks_of_the_whole(there, wanted):
  frames = busy(there)
  clip = types.SimpleNamespace(duration=wanted, frames=lambda rate, size: iter(frames))
  blocks = list(ENCODER.encode_gradually(clip))
  made = np.concatenate(blocks)
  count = round(wanted * 12.5)
  lasting = np.concatenate([frames, frames[-1:].repeat(max(0, 2 * count - len(frames)), 0)])
  assert made.shape == (count, 3)
  assert len(blocks) > 5 or there < 20  # long before the film is read
  # Running sums in another order.
  np.testing.assert_allclose(made, ENCODER.measure(lasting)[:count], atol=1e-5)
  assert (made > 0).any() or there < 1


def test_a_rate_of_nothing_is_refused():
  with pytest.raises(errors.ConfigError, match='a rate of 0 Hz'):
    EventEncoder(rate=0)


def test_what_stirs_in_a_still_picture_is_marked_too():
  frames = film(6)
  lively = moving(frames, 3, 6)
  small = frames.copy()
  small[:, 14:22, 28:36] = lively[:, 14:22, 28:36]  # a thirty-sixth of it
  ((time, strength),) = marks(small)['motion_onset']
  assert abs(time - 3) <= 0.12 and strength > 0.25
  # By the higher floor of earlier versions it is less, or nothing.
  config = {key: value for key, value in ENCODER.identity['config'].items() if key != 'floor'}
  earlier = {**ENCODER.identity, 'config': config}
  before = ENTRY.rebuild(earlier, {})
  assert isinstance(before, EventEncoder)
  assert registry.same(before.identity, earlier) and not registry.same(ENCODER.identity, earlier)
  assert not registry.same(ENCODER.identity, {'encoder': 'events'})  # damaged
  assert before.floor == 1 / 200 and ENTRY.rebuild(ENCODER.identity, {}) == ENCODER
  found = before.measure(small)[:, 1]
  assert found.max() < 0.6 * strength


def test_a_floor_of_nothing_is_refused():
  with pytest.raises(errors.ConfigError, match='a floor of 0 must be positive'):
    EventEncoder(floor=0)
