"""Landmarks and hashes survive another coding and another beginning, and tell different things apart."""

import numpy as np
import pytest

from v2meow_jax.curation import duplicates, landmarks, pictures, sound
from v2meow_jax.curation.duplicates import Duplicates
from v2meow_jax.curation.filters import Candidate
from v2meow_jax.curation.measuring import Measured
from v2meow_jax.data.spans import Span


def melody(seed, seconds=12):
  """Notes of random pitch and length with overtones, 16 kHz."""
  rng, made, at = np.random.default_rng(seed), np.zeros(seconds * 16000, np.float32), 0
  while at < len(made):
    length = int(rng.uniform(0.1, 0.4) * 16000)
    time = np.arange(min(length, len(made) - at)) / 16000
    pitch = 220 * 2 ** (rng.integers(0, 36) / 12)
    note = sum(np.sin(2 * np.pi * pitch * n * time) / n for n in (1, 2, 3)) * np.exp(-4 * time)
    made[at : at + len(time)] += note
    at += length
  return 0.2 * made


def looking(seed, count=20):
  """Blurred noise as pictures [count, 36, 64] with the contrast of pictures."""
  coarse = np.random.default_rng(seed).uniform(0, 255, (count, 5, 8))
  return np.kron(coarse, np.ones((1, 8, 8)))[:, :36].astype(np.float32)


def candidate(name, audio=None, looks=None):
  span = Span(0.0, 12.0, 'a', 'a')
  heard = seen = None
  if audio is not None:
    hashes, frames = landmarks.landmarks(audio)
    heard = sound.Sound(b'', b'', hashes.tobytes(), frames.tobytes())
  if looks is not None:
    bars, contrasts = np.zeros((len(looks), 4), np.uint8), np.full(len(looks), 50, np.uint8)
    hashes = pictures.hashes_of(looks)
    seen = pictures.Pictures(b'', hashes.tobytes(), contrasts.tobytes(), bars.tobytes())
  return Candidate(name, name, 0.0, 12.0, span, Measured(span, heard, None, seen))


@pytest.mark.parametrize('late', [0, 256, 4999])
def test_the_same_sound_is_found_softer_noisier_and_begun_elsewhere(late):
  first = melody(1)
  noise = 0.002 * np.random.default_rng(9).standard_normal(len(first) - late).astype(np.float32)
  found = duplicates.alike_in_sound(
    [candidate('a', first), candidate('b', melody(2)), candidate('c', 0.3 * first[late:] + noise)], 50, 0.08
  )
  assert [(a, b) for a, b, _ in found] == [(0, 2)]


def test_the_same_pictures_are_found_brighter_and_in_another_order():
  first = looking(1)
  rng = np.random.default_rng(3)
  again = np.clip(0.8 * first[::-1] + 30 + rng.normal(0, 3, first.shape), 0, 255).astype(np.float32)
  told = [candidate('a', looks=first), candidate('b', looks=looking(2)), candidate('c', looks=again)]
  assert [(a, b) for a, b, _ in duplicates.alike_in_pictures(told, 50, 0.3)] == [(0, 2)]


def test_the_first_of_those_that_are_alike_stays_or_all_come_into_one_split():
  rows = [candidate(name, melody(seed)) for name, seed in (('a', 1), ('b', 2), ('c', 1), ('d', 1))]
  reasons, together = Duplicates(pictures=False).judge(rows)
  assert [bool(reason) for reason in reasons] == [False, False, True, True] and together == []
  assert 'of its sound is as in a' in reasons[3]
  reasons, together = Duplicates(pictures=False, drop=False).judge(rows)
  assert not any(reasons) and {('a', 'c'), ('a', 'd')} <= set(together)


def test_what_many_share_tells_nothing():
  rows = [candidate(str(n), melody(1)) for n in range(6)]
  assert any(Duplicates(pictures=False).judge(rows)[0])
  assert not any(Duplicates(pictures=False, common=5).judge(rows)[0])


def test_clips_of_one_source_may_repeat():
  row = candidate('a', melody(1))
  assert Duplicates().judge([row, row])[0] == ['', '']
