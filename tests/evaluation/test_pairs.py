"""Agreement in time against mir_eval, and with curves and cuts whose answer is known."""

import mir_eval
import numpy as np
import pytest
import scipy.stats

from v2meow_jax.evaluation import features, pairs


def test_beat_f_measure_is_mir_evals():
  rng = np.random.default_rng(0)
  for _ in range(50):
    truth = np.cumsum(rng.uniform(0.05, 0.8, 40))
    ours = np.sort(np.concatenate([truth[::2] + rng.normal(0, 0.06, 20), rng.uniform(0, 20, 10)]))
    assert pairs.beat_f(ours, truth) == pytest.approx(mir_eval.beat.f_measure(truth, ours))
  assert pairs.beat_f(np.zeros(0), truth) == 0


def test_tempo_within_four_percent():
  found = [pairs.tempo_agrees(ours, 100) for ours in (96.1, 95.9, 104, 50, 200)]
  assert found == [1, 0, 1, 0, 0]
  assert [pairs.tempo_agrees(ours, 120, True) for ours in (40, 60, 361, 90, np.nan)] == [1, 1, 1, 0, 0]
  # As mir_eval counts tempi in range, of which it takes two.
  assert mir_eval.tempo.detection(np.array([100.0, 50.0]), 1.0, np.array([96.5, 50.0]), tol=0.04)[2]
  assert np.isnan(pairs.tempo_agrees(100, np.nan))


def test_seconds_with_beats():
  coverage, hit = pairs.beat_seconds(np.array([0.2, 0.4, 3.1]), np.array([0.1, 1.5, 2.5, 3.9]), 4)
  assert (coverage, hit) == (0.5, 0.5)
  assert np.isnan(pairs.beat_seconds(np.array([1.0]), np.zeros(0), 4)[1])


def test_a_lag_is_found_with_its_sign():
  rng = np.random.default_rng(0)
  motion = rng.standard_normal(200)
  music = np.concatenate([rng.standard_normal(3), motion])[:200]  # 0.75 s later
  lags, found = pairs.lagged(music, motion)
  assert lags[np.argmax(found)] == 0.75 and found.max() == pytest.approx(1)
  assert found[len(found) // 2] == pytest.approx(scipy.stats.pearsonr(music, motion).statistic)
  assert pairs.correlation(np.ones(20), motion) == 0 and np.isnan(pairs.correlation(motion, np.ones(20)))


def test_cuts_on_beats_against_chance():
  rng = np.random.default_rng(0)
  beats = np.arange(0.25, 60, 0.5)
  hit, chance = pairs.cut_to_beat(beats[::7] + 0.05, beats, 60)
  assert hit == 1 and chance == pytest.approx(0.4)  # a fifth of a second around each, twice a second
  hit, chance = pairs.cut_to_beat(rng.uniform(0, 60, 4000), np.sort(rng.uniform(0, 60, 50)), 60)
  assert hit == pytest.approx(chance, abs=0.03)
  change = np.zeros(24)
  change[[5, 13]] = 0.9
  assert pairs.cuts_of(change, 12.0) == pytest.approx([4.5 / 12, 12.5 / 12])


def clicks(rate=features.RATE, seconds=12, period=0.5):
  sound = 0.01 * np.random.default_rng(0).standard_normal(rate * seconds)
  for at in np.arange(0.25, seconds - 0.1, period):
    sound[int(at * rate) : int(at * rate) + 400] += 0.5 * np.hanning(400) * np.sin(np.arange(400))
  return sound.astype(np.float32)[:, None]


def test_a_piece_agrees_with_itself_and_follows_what_it_is_made_from():
  heard = features.hear(clicks(), features.RATE)
  own = pairs.agreement(heard, heard)
  assert all(own[name] == pytest.approx(1) for name in own), own
  motion = np.repeat(heard.curves['energy'], 3)
  change = np.zeros(len(motion))
  change[np.round(heard.beats[2::4] * 12 + 0.5).astype(int)] = 1
  columns = {'motion': motion, 'brightness': np.repeat(heard.curves['brightness'], 3), 'cut': change}
  found = pairs.following(heard, columns, 12.0)
  assert found['motion_energy_at_0'] == pytest.approx(1) and found['brightness'] == pytest.approx(1)
  assert found['motion_lag'] % 0.5 == 0  # the clicks' period
  assert found['cut_to_beat'] == pytest.approx(1 - 0.4, abs=0.06)


def test_no_two_metrics_have_one_name():
  kinds = (features.FIGURES, pairs.AGREEMENT, pairs.FOLLOWING)
  assert len(set().union(*kinds)) == sum(map(len, kinds))
  heard = features.hear(clicks(seconds=4), features.RATE)
  assert heard.figures.keys() == features.FIGURES.keys()
  assert pairs.agreement(heard, heard).keys() == pairs.AGREEMENT.keys()
  columns = dict.fromkeys(('motion', 'brightness', 'cut'), np.zeros(48))
  found = pairs.following(heard, columns, 12.0)
  assert found.keys() == pairs.FOLLOWING.keys() and all(map(np.isnan, found.values()))
