"""A folder of music against a reference: controls, flags, what is kept, and what fails alone."""

import json

import numpy as np
import pytest
import soundfile

from v2meow_jax.commands import evaluate
from v2meow_jax.evaluation import controls, features, measuring, tables
from v2meow_jax.evaluation.bootstrap import Estimate
from v2meow_jax.evaluation.kept import Kept

RATE = 16000


def music(folder, count, seconds=8, first=0):
  """Chords on a beat, another key and tempo a piece."""
  folder.mkdir(parents=True, exist_ok=True)
  time = np.arange(seconds * RATE) / RATE
  for n in range(first, first + count):
    rng = np.random.default_rng(n)
    root, period = 220 * 2 ** (rng.integers(12) / 12), 0.4 + 0.05 * rng.integers(6)
    level = np.exp(-6 * (time % period)) * (0.4 + 0.3 * np.sin(2 * np.pi * time / rng.uniform(3, 7)))
    chord = sum(np.sin(2 * np.pi * root * r * k * time) / k for r in (1, 1.26, 1.5) for k in range(1, 5))
    sound = 0.1 * level * chord + 1e-3 * rng.standard_normal(len(time))
    soundfile.write(folder / f'p{n - first}.wav', sound.astype(np.float32), RATE)
  return folder


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
  """The truth as the music of pieces 0 to 4; piece 5 is silent, and one file is no music."""
  folder = tmp_path_factory.mktemp('music')
  reference = music(folder / 'reference', 8)
  ours = music(folder / 'ours', 6)
  soundfile.write(ours / 'p5.wav', np.zeros(8 * RATE, np.float32), RATE)
  soundfile.write(ours / 'broken.wav', np.zeros(100, np.float32), RATE)
  out = folder / 'out'
  chosen = ['--audio', str(ours), '--reference', str(reference), '--out', str(out), '--examples', '1']
  status = evaluate.main(chosen)
  return folder, chosen, status, json.loads((out / 'report.json').read_text())


def evaluated_figure(folder, number, name):
  sound, rate = soundfile.read(folder / f'p{number}.wav', dtype='float32', always_2d=True)
  return features.hear(sound, rate).figures[name]


def test_truth_controls_and_flags(measured):
  _, _, status, report = measured
  assert status == 2 and 'too short' in report['failures']['broken']  # the rest went on
  assert report['ways'] == ['made', 'truth', 'shuffled', 'noise', 'silence']
  rows = {row['metric']: row for row in report['table']}
  # Noise and silence are told from music by the distance of sets, and made is near the truth.
  values = {way: told['value'] for way, told in rows['filterbank/frechet']['ways'].items()}
  assert values['truth'] < values['noise'] and values['truth'] < values['silence']
  assert rows['filterbank/frechet']['flag'] == ''
  assert rows['silence']['ways']['silence']['value'] == 1 and rows['silence']['better'] == ''
  # Five of six pieces are their truth, the sixth is silent.
  assert report['metrics']['beat_f']['value'] == pytest.approx(5 / 6)
  assert report['metrics']['loudness_curve']['value'] == pytest.approx(5 / 6, abs=1e-6)
  assert report['metrics']['truth/beat_f']['value'] == 1
  # A beat in every second: the published figure takes exchanged music for the truth.
  assert rows['beat_hit']['flag']
  assert rows['tonality']['ways']['noise']['value'] == pytest.approx(6.36, abs=0.2)
  # One of our six is silent, the others are pieces of the eight of the truth.
  span = rows['silence']['range']
  assert span == {'low': 0, 'high': 0, 'inside': pytest.approx(5 / 6), 'truth': 1}
  truth = [evaluated_figure(measured[0] / 'reference', n, 'pulse') for n in range(8)]
  low, high = np.percentile(truth, (5, 95))
  ours = [*truth[:5], 0]
  assert rows['pulse']['range'] == pytest.approx(
    {
      'low': low,
      'high': high,
      'inside': np.mean([low <= value <= high for value in ours]),
      'truth': 0.75,  # without the first and the last of eight
    }
  )
  assert any('FAD-infinity' in note for note in report['notes'])
  assert set(report['pieces']) == {f'p{n}' for n in range(6)}


def test_the_page_holds_everything(measured):
  folder, _, _, report = measured
  page = (folder / 'out' / 'index.html').read_text()
  assert 'src="http' not in page and 'viewport' in page
  assert page.count('<audio') == page.count('data:audio/mpeg;base64,') == 3  # made, truth, noise
  assert page.count('data:image/png;base64,') == 3
  for row in report['table']:
    assert ('range' not in row) == (row['metric'] not in features.FIGURES)
    assert row['metric'] in page and row['says'][:40] in page.replace('&#x27;', "'")
  assert page.count('of made within') == len(features.FIGURES)
  assert 'broken: ' in page and report['provenance']['command'] in page.replace('&#x27;', "'")


def test_it_is_measured_once_and_the_same_by_shards(measured, monkeypatch):
  folder, chosen, _, report = measured
  kept = list((folder / 'reference' / '.evaluation').iterdir())
  assert len(kept) == 8 + 6 + 6 + 2 + 2  # truth of eight, and noise and silence of each

  def never(*_):
    raise AssertionError('measured again')

  monkeypatch.setattr(measuring.features, 'hear', never)
  again = folder / 'again'
  chosen = [str(again) if part == str(folder / 'out') else part for part in chosen]
  for shard in ('0/2', '1/2'):
    assert evaluate.main([*chosen, '--shard', shard]) in (0, 2)
  assert not again.exists()
  assert evaluate.main(chosen) == 2
  assert json.loads((again / 'report.json').read_text())['metrics'] == report['metrics']


def test_a_damaged_measurement_is_made_again(tmp_path):
  kept, calls = Kept(tmp_path / 'k'), []

  def make():
    calls.append(1)
    return {'a': np.arange(3)}

  for _ in range(2):
    assert kept.get({'x': 1}, make)['a'].tolist() == [0, 1, 2]
  (file,) = (tmp_path / 'k').iterdir()
  file.write_bytes(file.read_bytes()[:40])
  assert kept.get({'x': 1}, make)['a'].tolist() == [0, 1, 2] and len(calls) == 2
  kept.get({'x': 2}, make)
  assert len(calls) == 3 and len(list((tmp_path / 'k').iterdir())) == 2


def test_flags_say_which_control_is_taken_for_the_truth():
  def estimate(value, reach=0.1):
    return Estimate(value, (value - reach, value + reach), 5)

  fine = {'truth': estimate(1.0), 'noise': estimate(0.2), 'silence': estimate(0.0), 'shuffled': estimate(0.5)}
  assert tables.flag(fine, 'higher') == '' and tables.flag(fine, '') == ''
  assert tables.flag(fine, 'lower') == 'silence and noise are as good as the truth'
  assert 'as good' in tables.flag(fine | {'shuffled': estimate(0.95)}, 'higher')
  assert tables.flag(fine | {'noise': estimate(1.0)}, 'higher') == 'noise is as good as the truth'


def test_exchanged_pairs_are_of_others():
  found = controls.derangement(list('aabbbc'), seed=2)
  assert sorted(set(found)) and all('aabbbc'[n] != 'aabbbc'[m] for n, m in enumerate(found))
  assert controls.derangement(['a', 'a']) == [None, None]
  rng = controls.generator('x', 'noise', 0)
  truth = 0.1 * np.sin(np.arange(RATE))[:, None].astype(np.float32)
  made = controls.noise(truth, rng)
  assert np.sqrt(np.mean(made**2)) == pytest.approx(np.sqrt(np.mean(truth**2)), rel=0.02)
