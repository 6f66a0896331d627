"""Keys against mir_eval; stability of key and tempo where it is known."""

import mir_eval
import numpy as np
import pytest

from v2meow_jax.evaluation import features, keys, stability

NAMES = ('C', 'C#', 'D', 'Eb', 'E', 'F', 'F#', 'G', 'Ab', 'A', 'Bb', 'B')


def test_key_agreement_is_mir_evals():
  every = [(tonic, major) for tonic in range(12) for major in (True, False)]
  for ours in every:
    for theirs in every:
      told = [f'{NAMES[tonic]} {"major" if major else "minor"}' for tonic, major in (theirs, ours)]
      assert keys.key_agreement(ours, theirs) == mir_eval.key.weighted_score(*told), told


def test_the_key_of_a_scale_is_found():
  for tonic in range(12):
    for profile, major in ((keys.MAJOR, True), (keys.MINOR, False)):
      assert keys.key_of(np.roll(profile, tonic) + 0.1) == (tonic, major)
  assert keys.key_of(np.full(12, 1 / 12)) is None


RATE = features.RATE


def notes(pitches, interval=0.5, seconds=24.0):
  """Struck sawtooth-like tones, one an `interval`, the pitches in turn."""
  t = np.arange(round(seconds * RATE)) / RATE
  number = (t // interval).astype(int)
  hertz = 440 * 2 ** ((np.array(pitches)[number % len(pitches)] - 69) / 12)
  phase = 2 * np.pi * np.cumsum(hertz) / RATE
  tone = sum(np.sin(h * phase) / h for h in range(1, 6))
  return (0.2 * tone * np.exp(-4 * (t % interval))).astype(np.float32)[:, None]


def scale(root):
  return [root + step for step in (0, 4, 7, 12, 11, 7, 5, 2)]


def test_what_keeps_its_key_is_told_from_what_wanders():
  stays = features.hear(notes(scale(60)), RATE).figures['key_stability']
  halves = [notes(scale(root), seconds=4.0) for root in (60, 66, 63, 68, 61, 65)]
  wanders = features.hear(np.concatenate(halves), RATE).figures['key_stability']
  assert stays > 0.9 and wanders < 0.5


def test_silence_has_no_key():
  sound = notes(scale(60))
  paused = np.concatenate([sound[: 8 * RATE], np.zeros((16 * RATE, 1), np.float32), sound[: 8 * RATE]])
  noise = 1e-5 * np.random.default_rng(0).standard_normal(paused.shape).astype(np.float32)
  assert features.hear(paused + noise, RATE).figures['key_stability'] > 0.8
  assert np.isnan(features.hear(noise, RATE).figures['key_stability'])
  assert features.hear(paused + noise, RATE).figures['tempo_stability'] > 0.9
  assert np.isnan(features.hear(noise, RATE).figures['tempo_stability'])


@pytest.mark.parametrize('interval', [0.4, 0.75])
def test_what_keeps_its_tempo_is_told_from_what_does_not(interval):
  pitches = scale(60)
  steady = features.hear(notes(pitches, interval), RATE).figures['tempo_stability']
  drawn = np.random.default_rng(1).uniform(0.26, 1.2, 60)
  free = features.hear(np.concatenate([notes([60 + n % 7], i, i) for n, i in enumerate(drawn)]), RATE)
  assert steady > 0.95 and free.figures['tempo_stability'] < 0.6


def test_a_random_interval_agrees_in_about_a_fifth():
  lags = np.random.default_rng(2).integers(round(0.25 * 62.5), round(1.5 * 62.5), (2, 20000))
  assert 0.1 < np.mean([stability._same(a, b) for a, b in lags.T]) < 0.3


def test_the_autocorrelation_is_numpys():
  flux = np.random.default_rng(3).uniform(size=400)
  lags, found = stability.autocorrelation(flux, 62.5)
  centred = flux - flux.mean()
  every = np.correlate(centred, centred, 'full')[len(flux) - 1 :] / (centred @ centred)
  np.testing.assert_allclose(found, every[list(lags)])
