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
  out = tmp_path_factory.mktemp('evaluate') / 'report.json'
  chosen = ('--crops=8', '--clips=2', f'--out={out}')
  assert evaluate.main([f'--bundle={small_bundle}', f'--dataset={small_dataset}', *chosen]) == 0
  return json.loads(out.read_text())


def test_untrained_stages_are_no_better_than_guessing(report):
  stages = report['stages']
  assert list(stages) == ['semantic', 'coarse', 'fine']
  for stage in stages.values():
    # 16 codes: a uniform guess costs log 16, and random weights cost a little more.
    assert 0.9 * math.log(16) < stage['validation']['loss'] < 2 * math.log(16)
    # The same film is in both splits, so its counts predict it better than guessing.
    assert stage['bigram']['loss'] < stage['unigram']['loss'] + 0.2 < math.log(16) + 0.2


def test_conditions_are_compared_where_they_can_be_exchanged(report):
  stages = report['stages']
  assert set(stages['coarse']['conditions']) == {'audio/semantic', 'video/motion'}
  assert stages['fine']['conditions'] == {}
  found = stages['semantic']['conditions']['video/motion']
  assert found['examples'] == 8
  assert found['gain'] == pytest.approx(found['foreign'] - found['own'])


def test_bfloat16_is_compared_with_float32(small_bundle, small_dataset, report, tmp_path, capsys):
  out = tmp_path / 'report.json'
  chosen = ('--crops=8', '--clips=2', '--dtype=bfloat16', f'--out={out}')
  assert evaluate.main([f'--bundle={small_bundle}', f'--dataset={small_dataset}', *chosen]) == 0
  assert capsys.readouterr().out.count('against float32') == 3
  for name, stage in json.loads(out.read_text())['stages'].items():
    exact = report['stages'][name]
    assert 'against_float32' not in exact
    assert stage['validation']['loss'] == pytest.approx(exact['validation']['loss'], rel=0.01)
    assert stage['validation']['loss'] != exact['validation']['loss']
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
  assert report['codec']['si_sdr'] < 0


def test_a_dataset_of_another_codec_is_refused(small_dataset, small_bundle, tmp_path, capsys):
  copy = shutil.copytree(small_dataset, tmp_path / 'copy')
  entries = json.loads((copy / 'streams.json').read_text())
  entries['audio/acoustic']['made_by']['sha256'] = 'another'
  (copy / 'streams.json').write_text(json.dumps(entries))
  assert terminal.run(evaluate.main, [f'--bundle={small_bundle}', f'--dataset={copy}']) == 2
  assert 'made by another codec' in capsys.readouterr().err
