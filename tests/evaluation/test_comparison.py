"""Two reports whose difference is known."""

import json

import numpy as np
import pytest
import scipy.stats

from v2meow_jax import errors
from v2meow_jax.evaluation import comparison


def report(path, values, **about):
  pieces = {
    f'p{n}': {'track': f't{n // 2}', 'values': {'tonality': v, 'key': None}} for n, v in enumerate(values)
  }
  metrics = {'tonality': {'value': 0, 'interval': [0, 0], 'count': 1, 'unit': 'dB', 'better': 'higher'}}
  told = {'subject': 'music', 'pieces': pieces, 'metrics': metrics, 'provenance': about}
  path.write_text(json.dumps(told))
  return path


def test_pairing_sees_what_the_spread_of_pieces_hides(tmp_path):
  rng = np.random.default_rng(0)
  base = 10 * rng.standard_normal(40)
  moved = base + 0.5 + 0.3 * rng.standard_normal(40)
  a, b = report(tmp_path / 'a.json', base, seed=0), report(tmp_path / 'b.json', moved, seed=1)
  found = comparison.compare(a, b)
  told = found['differences']['tonality']
  assert told['value'] == pytest.approx((moved - base).mean()) and told['count'] == 20
  assert comparison.verdict(told) == 'B is better' and told['interval'][0] > 0
  assert scipy.stats.ttest_ind(base, moved).pvalue > 0.5  # unpaired it is lost
  assert found['notes'] == ['seed differs: 0 and 1'] and told['needed'] < 10
  assert 'key' not in found['differences']
  back = comparison.compare(b, a)['differences']['tonality']
  assert comparison.verdict(back) == 'A is better'
  assert 'B is better' in '\n'.join(comparison.tell(found))


def test_a_report_is_no_different_from_itself(tmp_path):
  a = report(tmp_path / 'a.json', [1.0, 2.0, 3.0])
  told = comparison.compare(a, a)['differences']['tonality']
  assert comparison.verdict(told) == 'not seen' and told['needed'] is None


def test_controls_are_not_compared(tmp_path):
  a = report(tmp_path / 'a.json', [1.0, 2.0])
  told = json.loads(a.read_text())
  told['metrics'] |= {'bank/frechet': {'value': 1}, 'noise/tonality': {'value': 2}}
  a.write_text(json.dumps(told | {'ways': ['made', 'noise']}))
  assert list(comparison.compare(a, a)['unpaired']) == ['bank/frechet']


def test_what_cannot_be_paired_is_a_sentence(tmp_path):
  a = report(tmp_path / 'a.json', [1.0, 2.0])
  with pytest.raises(errors.DatasetError, match='there is no report'):
    comparison.read(tmp_path / 'none')
  (tmp_path / 'bad.json').write_text('{"subject": 1}')
  with pytest.raises(errors.DatasetError, match='not a report'):
    comparison.compare(a, tmp_path / 'bad.json')
  empty = report(tmp_path / 'empty.json', [])
  with pytest.raises(errors.DatasetError, match='no piece was measured in both'):
    comparison.compare(a, empty)
