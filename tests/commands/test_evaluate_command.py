"""`v2meow evaluate` on a small dataset that the bundle's own encoders made."""

import json
import math
import shutil

import numpy as np
import pytest
import scipy.special

from v2meow_jax import terminal
from v2meow_jax.commands import evaluate
from v2meow_jax.evaluation import precision


@pytest.fixture(scope='module')
def report(small_bundle, small_dataset, tmp_path_factory):
  out = tmp_path_factory.mktemp('evaluate')
  chosen = ('--crops=8', '--clips=2', f'--out={out}')
  assert evaluate.main([f'--bundle={small_bundle}', f'--dataset={small_dataset}', *chosen]) == 0
  page = (out / 'index.html').read_text()
  assert 'By place in the crop' in page and 'src="http' not in page
  return json.loads((out / 'report.json').read_text())


def test_untrained_stages_are_no_better_than_guessing(report):
  stages = report['stages']
  assert list(stages) == ['semantic', 'coarse', 'fine']
  for stage in stages.values():
    # 16 codes: a uniform guess costs log 16, and random weights cost a little more.
    assert 0.9 * math.log(16) < stage['validation']['nats_a_token']['value'] < 2 * math.log(16)
    # The same film is in both splits, so its counts predict it better than guessing.
    assert stage['bigram']['nats_a_token'] < stage['unigram']['nats_a_token'] + 0.2 < math.log(16) + 0.2


def test_conditions_are_compared_where_they_can_be_exchanged(report):
  stages = report['stages']
  assert set(stages['coarse']['conditions']) == {'audio/semantic', 'video/motion', 'all'}
  assert stages['fine']['conditions'] == {}
  found = stages['semantic']['conditions']['video/motion']
  assert set(found) == {'shifted', 'moment', 'track', 'none'}
  # One film is the whole split: there is another moment of it, and no other track.
  assert found['track']['gain']['value'] is None and found['moment']['gain']['count'] == 1
  assert found['moment']['gain']['interval'] == [None, None] and abs(found['moment']['gain']['value']) < 1


def test_figures_are_a_plain_dictionary_with_provenance(report):
  assert (
    report['metrics']['coarse/nats_a_second'] == report['stages']['coarse']['validation']['nats_a_second']
  )
  for told in report['metrics'].values():
    assert {'value', 'interval', 'count'} <= set(told)
  stage = report['stages']['coarse']['validation']
  # 25 frames a second of two levels
  assert stage['nats_a_second']['value'] == pytest.approx(50 * stage['nats_a_token']['value'])
  assert stage['bits_a_second']['value'] == pytest.approx(stage['nats_a_second']['value'] / math.log(2))
  levels = [told['nats_a_token']['value'] for told in stage['levels'].values()]
  assert stage['nats_a_token']['value'] == pytest.approx(np.mean(levels))
  about = report['provenance']
  assert len(about['bundle']) == 64 and about['seed'] == 0 and about['versions']['jax']


@pytest.mark.slow
def test_bfloat16_is_compared_with_float32(small_bundle, small_dataset, report, tmp_path, capsys):
  chosen = ('--crops=8', '--clips=2', '--dtype=bfloat16', f'--out={tmp_path}')
  assert evaluate.main([f'--bundle={small_bundle}', f'--dataset={small_dataset}', *chosen]) == 0
  assert capsys.readouterr().out.count('against float32') == 3
  for name, stage in json.loads((tmp_path / 'report.json').read_text())['stages'].items():
    exact = report['stages'][name]
    assert 'against_float32' not in exact
    rough, fine = (part['validation']['nats_a_token']['value'] for part in (stage, exact))
    assert rough == pytest.approx(fine, rel=0.01) and rough != fine
    assert 0.9 < stage['against_float32']['agreement'] <= 1
    assert 0 < stage['against_float32']['divergence'] < 1e-3


def test_precisions_are_compared_by_the_formula():
  rng = np.random.default_rng(0)
  one, other = rng.standard_normal((2, 2, 5, 3, 7)).astype(np.float32)
  mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.float32)
  found = precision.against_exact(lambda _: one, lambda _: other, [{'mask': mask}], 'mask')
  p, q = (scipy.special.softmax(x.astype(np.float64), -1)[mask > 0] for x in (one, other))
  assert found['tokens'] == 21
  assert found['agreement'] == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
  assert found['divergence'] == pytest.approx(scipy.special.rel_entr(p, q).sum(-1).mean(), rel=1e-5)


def test_the_codec_is_measured_on_held_out_sound(report):
  assert report['codec']['seconds'] == 12
  assert report['codec']['si_sdr']['value'] < 0


def test_a_dataset_of_another_codec_is_refused(small_dataset, small_bundle, tmp_path, capsys):
  copy = shutil.copytree(small_dataset, tmp_path / 'copy')
  entries = json.loads((copy / 'streams.json').read_text())
  entries['audio/acoustic']['made_by'] |= {'sha256': 'another', 'codes': 'another'}
  (copy / 'streams.json').write_text(json.dumps(entries))
  assert terminal.run(evaluate.main, [f'--bundle={small_bundle}', f'--dataset={copy}']) == 2
  assert 'made by another codec' in capsys.readouterr().err


def test_what_cannot_be_measured_is_a_sentence(tmp_path, small_bundle, capsys):
  def refused(*arguments):
    assert terminal.run(evaluate.main, [*map(str, arguments)]) == 2
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1, told
    return told

  assert 'name one thing to measure' in refused()[:200]
  assert '--bundle: name the bundle' in refused('--dataset', tmp_path)
  assert 'no such folder' in refused('--audio', tmp_path / 'none', '--out', tmp_path / 'out')
  (tmp_path / 'empty').mkdir()
  assert 'no file with sound' in refused('--audio', tmp_path / 'empty', '--out', tmp_path / 'out')
  assert '--out: name a folder' in refused('--audio', tmp_path / 'empty')
  assert '--seconds' in refused('--audio', tmp_path / 'empty', '--seconds', 0)
  assert 'there is no report' in refused('--compare', tmp_path, tmp_path)
  assert not (tmp_path / 'out').exists()
