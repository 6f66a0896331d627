"""Figures of signals for which they are known."""

import math

import librosa
import numpy as np
import pytest
from test_pairs import clicks

from v2meow_jax.evaluation import features
from v2meow_jax.media import loudness

RATE = features.RATE


def noise(seconds=20, seed=0):
  return (0.1 * np.random.default_rng(seed).standard_normal(seconds * RATE)).astype(np.float32)


def test_tonality_of_noise_is_that_of_an_exponential_distribution_and_tones_stand_out():
  wanted = 10 * math.log10(math.log(20) / math.log(2))
  # Of 513 bins: percentiles of a frame are off by some tenths of a dB, their median by less.
  assert features.tonality(features.spectrum(noise())) == pytest.approx(wanted, abs=0.15)
  time = np.arange(10 * RATE) / RATE
  chord = sum(np.sin(2 * np.pi * f * k * time) / k for f in (220, 277, 330) for k in range(1, 9))
  tones = 0.1 * chord.astype(np.float32) + 0.01 * noise(10)
  assert features.tonality(features.spectrum(tones)) > 20
  assert np.isnan(features.tonality(features.spectrum(np.zeros(RATE, np.float32))))


def test_pulse_of_clicks_and_of_noise():
  flux = features.spectral_flux(features.spectrum(clicks()[:, 0]))
  brute = [
    np.correlate(flux - flux.mean(), flux - flux.mean(), 'full')[len(flux) - 1 + lag] for lag in range(200)
  ]
  lags = range(round(0.25 * 62.5), round(1.5 * 62.5) + 1)
  assert features.pulse(flux, 62.5) == pytest.approx(max(brute[n] for n in lags) / brute[0])
  assert features.pulse(flux, 62.5) > 0.5
  assert features.pulse(features.spectral_flux(features.spectrum(noise(30))), 62.5) < 0.12
  assert features.pulse(np.zeros(500), 62.5) == 0


def test_beats_of_clicks():
  beats, tempo = features.track_beats(features.spectral_flux(features.spectrum(clicks()[:, 0])))
  assert tempo == pytest.approx(120, rel=0.04)
  wanted = np.arange(0.25, 11.9, 0.5)
  assert np.median(np.abs(wanted[:, None] - beats).min(1)) < 0.03


def test_clipping_silence_and_bandwidth():
  sound = np.zeros((RATE, 1), np.float32)
  sound[10:14], sound[20:22], sound[30:33] = 1, 1, -1  # runs of 4, 2 and 3
  assert features.clipping(sound) == pytest.approx(7 / RATE)
  half = np.concatenate([noise(1), np.zeros(RATE, np.float32)])
  assert features.silence(half, RATE) == 0.5
  time = np.arange(2 * RATE) / RATE
  assert features.bandwidth(np.sin(2 * np.pi * 3000 * time), RATE) == pytest.approx(3000, abs=20)
  assert features.bandwidth(noise(), RATE) == pytest.approx(0.99 * RATE / 2, rel=0.01)


def test_repetition_of_a_loop_and_of_none():
  rng = np.random.default_rng(0)
  block = rng.standard_normal((8, 30))
  assert features.repetition(np.concatenate([block, block])) == pytest.approx(1)
  rows = rng.standard_normal((10, 300))
  corr = np.corrcoef(rows - rows.mean(0))
  np.fill_diagonal(corr, -1)
  # corrcoef centres each row as well, which in 300 columns moves nothing much.
  assert features.repetition(rows) == pytest.approx(corr.max(1).mean(), abs=0.02)
  assert features.repetition(np.ones((5, 4))) == 1 and np.isnan(features.repetition(block[:1]))


def test_curves_are_what_librosa_has():
  sound = noise(8)
  heard = features.hear(sound[:, None], RATE)
  blocks = sound.reshape(32, -1) * features.gain(sound, RATE)
  assert heard.curves['energy'] == pytest.approx(10 * np.log10((blocks**2).mean(1) + 1e-8), abs=1e-3)
  centroid = librosa.feature.spectral_centroid(y=sound, sr=RATE, n_fft=1024, hop_length=256)
  # Its centroid is of magnitudes, ours of power: both are in the middle for noise.
  assert 2 ** heard.curves['brightness'].mean() == pytest.approx(centroid.mean(), rel=0.02)
  assert heard.vectors.shape == (1, 62) and heard.seconds == 8
  assert heard.chroma.sum() == pytest.approx(1)


@pytest.mark.parametrize('rate', [RATE, 44100])
def test_a_louder_sound_differs_in_loudness_alone(rate):
  time = np.arange(6 * rate) / rate
  soft = (np.sin(2 * np.pi * 330 * time) * (0.02 + 0.01 * (time % 0.5 < 0.1)))[:, None].astype(np.float32)
  one, other = features.hear(soft, rate), features.hear(32 * soft, rate)
  assert other.figures['loudness'] - one.figures['loudness'] == pytest.approx(20 * np.log10(32), abs=1e-3)
  np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-4)
  np.testing.assert_allclose(one.curves['energy'], other.curves['energy'], atol=1e-4)
  for name in ('pulse', 'tonality', 'bandwidth'):
    assert one.figures[name] == pytest.approx(other.figures[name], rel=1e-4), name
  assert other.figures['silence'] == 0 and features.hear(soft / 40, rate).figures['silence'] > 0.5
  levelled = soft * features.gain(soft[:, 0], rate)
  assert loudness.integrated_loudness(levelled, rate) == pytest.approx(features.LEVEL, abs=1e-3)


def test_two_channels_are_as_loud_as_their_mean():
  sound = noise(8)[:, None]
  one, other = features.hear(sound, RATE), features.hear(np.concatenate([sound, sound], 1), RATE)
  np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-5)
  np.testing.assert_allclose(one.curves['energy'], other.curves['energy'], atol=1e-5)


def test_silence_has_figures_too():
  heard = features.hear(np.zeros((3 * RATE, 2), np.float32), RATE)
  assert heard.figures['silence'] == 1 and heard.figures['loudness'] == -100 and len(heard.beats) == 0
  assert np.isfinite(heard.vectors).all()
  with pytest.raises(ValueError, match='not finite'):
    features.hear(np.full((RATE, 1), np.nan, np.float32), RATE)
