"""`v2meow evaluate` on a small dataset that the bundle's own encoders made."""

import json
import math
import shutil

import pytest

from v2meow_jax import cli, evaluate


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


def test_the_codec_is_measured_on_held_out_sound(report):
  assert report['codec']['seconds'] == 12
  assert report['codec']['si_sdr'] < 0


def test_a_dataset_of_another_codec_is_refused(small_dataset, small_bundle, tmp_path, capsys):
  copy = shutil.copytree(small_dataset, tmp_path / 'copy')
  entries = json.loads((copy / 'streams.json').read_text())
  entries['audio/acoustic']['made_by']['sha256'] = 'another'
  (copy / 'streams.json').write_text(json.dumps(entries))
  assert cli.run(evaluate.main, [f'--bundle={small_bundle}', f'--dataset={copy}']) == 2
  assert 'made by another codec' in capsys.readouterr().err
