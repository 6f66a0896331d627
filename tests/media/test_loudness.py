import math
from fractions import Fraction

import av
import numpy as np
import pytest
from scipy import signal

from v2meow_jax.media import loudness


def sine(dbfs, seconds, rate=48_000, frequency=1000, channels=2):
  time = np.arange(round(seconds * rate)) / rate
  wave = 10 ** (dbfs / 20) * np.sin(2 * np.pi * frequency * time)
  return np.repeat(wave[:, None], channels, axis=1)


def ebur128(audio, rate):
  """The integrated loudness that FFmpeg's filter measures, in LUFS."""
  layout = 'mono' if audio.shape[1] == 1 else 'stereo'
  graph = av.filter.Graph()
  source = graph.add_abuffer(sample_rate=rate, format='dblp', layout=layout, time_base=Fraction(1, rate))
  meter = graph.add('ebur128', 'metadata=1')
  sink = graph.add('abuffersink')
  source.link_to(meter)
  meter.link_to(sink)
  graph.configure()
  result = None
  frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.T), format='dblp', layout=layout)
  frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
  for each in (frame, None):
    graph.push(each)
    while True:
      try:
        result = graph.pull().metadata.get('lavfi.r128.I', result)
      except (av.error.BlockingIOError, av.error.EOFError):
        break
  return float(result)


@pytest.mark.parametrize('rate', [16_000, 22_050, 32_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize('dbfs', [-23.0, -33.0])
def test_published_case_1_and_2_at_any_rate(rate, dbfs):
  assert loudness.integrated_loudness(sine(dbfs, 20, rate), rate) == pytest.approx(dbfs, abs=0.1)


@pytest.mark.parametrize(
  'steps',
  [
    [(-36, 10), (-23, 60), (-36, 10)],
    [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)],
    [(-26, 20), (-20, 20.1), (-26, 20)],
  ],
  ids=['case 3', 'case 4', 'case 5'],
)
def test_published_gating_cases(steps):
  audio = np.concatenate([sine(*step) for step in steps])
  assert loudness.integrated_loudness(audio, 48_000) == pytest.approx(-23.0, abs=0.1)


def test_full_scale_997_hz_on_one_channel_is_minus_3_01():
  audio = sine(0, 5, frequency=997)
  audio[:, 1] = 0
  assert loudness.integrated_loudness(audio, 48_000) == pytest.approx(-3.01, abs=0.02)


@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize('rate', [44_100, 48_000])
def test_against_ffmpeg(rate, channels):
  random = np.random.default_rng(channels)
  time = np.arange(8 * rate)[:, None] / rate
  colour = np.cumsum(random.normal(size=(8 * rate, channels)), axis=0)
  colour -= np.mean(colour, axis=0)
  audio = 0.1 * random.normal(size=colour.shape) + 0.5 * colour / np.abs(colour).max()
  audio *= 0.02 + np.abs(np.sin(time))
  audio[3 * rate : 5 * rate] *= 1e-3
  expected = ebur128(audio, rate)
  # FFmpeg prints three decimals of a histogram with steps of 0.01 LU.
  assert loudness.integrated_loudness(audio, rate) == pytest.approx(expected, abs=0.05)


def test_silence_short_and_empty():
  assert loudness.integrated_loudness(np.zeros((48_000, 2)), 48_000) == -math.inf
  assert loudness.integrated_loudness(np.zeros((0, 1)), 48_000) == -math.inf
  assert loudness.integrated_loudness(sine(-80, 1), 48_000) == -math.inf
  assert loudness.integrated_loudness(sine(-23, 0.2), 48_000) == pytest.approx(-23, abs=0.2)
  with pytest.raises(ValueError):
    loudness.integrated_loudness(np.zeros(48_000), 48_000)


def test_normalize():
  quiet = sine(-38, 3).astype(np.float32)
  result = loudness.normalize_loudness(quiet, 48_000)
  assert result.dtype == np.float32
  assert loudness.integrated_loudness(result, 48_000) == pytest.approx(-16, abs=0.01)
  loud = loudness.normalize_loudness(sine(0, 3), 48_000, target_lufs=-20)
  assert loudness.integrated_loudness(loud, 48_000) == pytest.approx(-20, abs=0.01)


def test_a_noise_floor_is_not_made_music():
  floor = sine(-57, 3)
  with pytest.warns(UserWarning, match=r'-57\.\d LUFS.*24 dB only instead of to -16 LUFS'):
    result = loudness.normalize_loudness(floor, 48_000)
  np.testing.assert_allclose(result, floor * 10 ** (24 / 20))


def test_normalize_stops_at_the_peak():
  audio = sine(-40, 3)
  audio[70_000] = 0.5
  result = loudness.normalize_loudness(audio, 48_000, peak_dbfs=-2)
  assert np.abs(result).max() == pytest.approx(10 ** (-2 / 20))
  silence = np.zeros((48_000, 1), np.float32)
  np.testing.assert_array_equal(loudness.normalize_loudness(silence, 48_000), silence)


@pytest.mark.parametrize('rate', [8000, 44_100, 96_000])
def test_the_filter_is_scipys_recursion_in_one_piece_or_in_many(rate):
  sound = np.random.default_rng(0).standard_normal((3 * rate + 17, 2))
  expected = signal.sosfilt(loudness._k_weighting(rate), sound, axis=0)
  before = np.zeros((len(loudness._response(rate)) - 1, 2))
  np.testing.assert_allclose(loudness._weighted(np.concatenate([before, sound]), rate), expected, atol=1e-10)
  meter, step = loudness.Meter(rate, 2), rate // 10
  measured = np.concatenate([meter(sound[a:b]) for a, b in ((0, step), (step, 9 * step), (9 * step, None))])
  tenths = np.square(expected[: 30 * step]).reshape(30, step, 2).mean(1).sum(1)
  np.testing.assert_allclose(measured, tenths, rtol=1e-6)
