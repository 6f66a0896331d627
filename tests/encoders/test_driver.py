"""The driver of frozen networks: windows, batches across clips, failures, identity."""

import dataclasses
import json
import pickle
from fractions import Fraction
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.encoders import base, driver
from v2meow_jax.encoders.driver import NetworkEncoder
from v2meow_jax.encoders.network import Network, Pictures, Sound
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

SEEN: list[tuple[int, ...]] = []


@dataclasses.dataclass(frozen=True)
class Windows(Network):
  """Gives what it is given: the first, the middle and the last unit of a window, times the weight."""

  weights: str = '/somewhere/else'
  of: str = 'audio'
  seen: int = 8
  rate: Fraction = Fraction(1)
  most: int = 99

  name: ClassVar[str] = 'windows'

  @property
  def reads(self):
    return Sound(4) if self.of == 'audio' else Pictures(Fraction(4), (2, 2))

  @property
  def stream(self):
    return Stream('x/windows', 'embedding', self.rate, 3)

  @property
  def window(self):
    return self.seen

  @property
  def hop(self):
    return 4 if not self.rate else super().hop

  def load(self):
    return {'scale': np.ones((), np.float32)}, self.apply

  def apply(self, params, batch):
    SEEN.append(batch.shape)
    if len(batch) > self.most:
      raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1 byte')
    flat = batch.reshape(*batch.shape[:2], -1)[..., 0].astype(jnp.float32) * params['scale']
    return flat[:, None, jnp.array([0, self.seen // 2, self.seen - 1])]


class Counting:
  """A clip whose unit n is n + 1."""

  def __init__(self, duration, broken=False):
    self.duration, self.broken, self.video = duration, broken, 'film'

  def audio(self, rate, channels):
    if self.broken:
      raise errors.MediaError('this one cannot be read')
    return np.arange(1, round(self.duration * rate) + 1, dtype=np.float32)[:, None]

  def frames(self, rate, size, cover):
    for n in range(round(self.duration * rate)):
      if self.broken and n == 5:
        raise OSError('the disk is gone')
      yield np.full((*size, 3), n + 1, np.uint8)


def brute(duration, seen, rate, of):
  """Elements of `Windows` by the definition."""
  units = round(duration * 4)
  count = round(duration * rate) if rate else None
  hop = int(4 / rate)
  rows = []
  for k in range(count):
    window = [k * hop - (seen - hop) // 2 + n for n in range(seen)]
    if of == 'audio':
      values = [n + 1 if 0 <= n < units else 0 for n in window]
    else:
      values = [min(max(n, 0), units - 1) + 1 for n in window]
    rows.append([values[0], values[seen // 2], values[-1]])
  return np.array(rows, np.float32)


@pytest.mark.parametrize('of', ['audio', 'video'])
@pytest.mark.parametrize('seen', [4, 5, 8, 11])
def test_windows_lie_around_their_elements(of, seen):
  network = Windows(of=of, seen=seen)
  encoder = NetworkEncoder(network, batch=4)
  for duration in (1.0, 3.0, 6.5, 7.25):
    found = encoder.encode_clip(Counting(duration))
    np.testing.assert_array_equal(found, brute(duration, seen, Fraction(1), of))
    np.testing.assert_array_equal(np.concatenate(list(encoder.encode_gradually(Counting(duration)))), found)


def test_batches_are_filled_across_clips_and_a_broken_clip_is_its_own_failure():
  SEEN.clear()
  clips = [Counting(3.0), Counting(2.0, broken=True), Counting(5.0), Counting(1.0)]
  encoder = NetworkEncoder(Windows(seen=6), batch=3)
  found = encoder.encode_clips(clips)
  assert SEEN == [(3, 6, 1)]  # one program for all
  assert isinstance(found[1], errors.MediaError)
  for number in (0, 2, 3):
    alone = NetworkEncoder(Windows(seen=6), batch=1).encode_clip(clips[number])
    np.testing.assert_array_equal(found[number], alone)
  video = NetworkEncoder(Windows(of='video'), batch=3).encode_clips(
    [Counting(3.0, broken=True), Counting(2.0)]
  )
  assert isinstance(video[0], errors.EncodingError) and 'the disk is gone' in str(video[0])
  np.testing.assert_array_equal(video[1], brute(2.0, 8, 1, 'video'))
  with pytest.raises(errors.MediaError, match='cannot be read'):
    encoder.encode_clip(clips[1])


def test_where_memory_does_not_allow_a_batch_fewer_windows_are_tried():
  clips = [Counting(5.0), Counting(4.0)]
  encoder = NetworkEncoder(Windows(most=2), batch=8)
  found = encoder.encode_clips(clips)
  for made, duration in zip(found, (5.0, 4.0), strict=True):
    np.testing.assert_array_equal(made, brute(duration, 8, 1, 'audio'))
  SEEN.clear()
  encoder.encode_clips(clips)
  assert SEEN == []  # what fitted is known, and compiled
  (none,) = NetworkEncoder(Windows(most=0), batch=8).encode_clips([Counting(2.0)])
  assert isinstance(none, errors.EncodingError) and 'not enough memory' in str(none)


@dataclasses.dataclass(frozen=True)
class Nan(Windows):
  """Gives what is not finite for silence."""

  def apply(self, params, batch):
    return super().apply(params, batch) / jnp.where(batch[:, :1, :1].reshape(-1, 1, 1) == 2, 0.0, 1.0)


def test_values_that_are_not_finite_are_the_failure_of_their_clip():
  found = NetworkEncoder(Nan(seen=4, rate=Fraction(4)), batch=4).encode_clips([Counting(0.25), Counting(1.0)])
  assert isinstance(found[0], np.ndarray)
  assert isinstance(found[1], errors.EncodingError) and 'not finite' in str(found[1])


def test_a_clip_as_one_vector_is_the_mean_of_its_windows():
  network = Windows(rate=Fraction(0), seen=8)
  found = NetworkEncoder(network, batch=2).encode_clip(Counting(5.0))
  # Windows of 2 s every second: at 0, 1, 2 and 3 s of 5.
  np.testing.assert_array_equal(found, [np.mean([[4 * k + 1, 4 * k + 5, 4 * k + 8] for k in range(4)], 0)])
  short = NetworkEncoder(network, batch=2).encode_clip(Counting(1.0))
  np.testing.assert_array_equal(short, [[1, 0, 0]])


def test_an_encoder_travels_without_weights_and_its_identity_without_paths(tmp_path):
  encoder = NetworkEncoder(Windows(str(tmp_path / 'else')), batch=2)
  encoder.encode_clip(Counting(2.0))
  data = pickle.dumps(encoder)
  assert len(data) < 600
  again = pickle.loads(data)
  assert again._open is encoder._open  # of a process, for all that come there
  assert again.identity == encoder.identity
  assert encoder.identity['model'] == 'else' and str(tmp_path) not in json.dumps(encoder.identity)
  assert encoder.identity != NetworkEncoder(Windows(seen=4), batch=2).identity


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda: NetworkEncoder(Windows(), batch=0), 'batch'),
    (lambda: NetworkEncoder(Windows(), precision='float8'), 'float8'),
    (lambda: NetworkEncoder(Windows(seen=3)), 'pass some over'),
    (lambda: NetworkEncoder(Windows(rate=Fraction(3))), 'do not divide'),
  ],
)
def test_settings_that_do_not_hold_are_refused(make, words):
  with pytest.raises(errors.ConfigError, match=words):
    make()


def test_encoders_of_single_clips_are_asked_one_by_one():
  class Short:
    stream = Stream('x/short', 'embedding', 1, 1)
    needs = 'audio'
    identity: ClassVar[dict] = {}

    def encode_clip(self, clip):
      if clip.duration > 2:
        raise errors.MediaError('too long')
      return np.ones((1, 1))

  clips = [MediaClip(None, 'x', 0, seconds) for seconds in (1.0, 3.0, 2.0)]
  found = base.encode_clips(Short(), clips)
  assert [isinstance(made, np.ndarray) for made in found] == [True, False, True]
  assert isinstance(found[1], errors.MediaError)
  assert base.encode_clips(NetworkEncoder(Windows()), [Counting(2.0)])[0].shape == (2, 3)
  assert driver.essence({'model': 'x', 'sha256': 'y'}) == {'sha256': 'y'}
