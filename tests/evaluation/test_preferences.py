"""Scores of answers against a generic optimiser, closed forms, and a world whose strengths are known."""

import json

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from test_music_report import music

from v2meow_jax import errors
from v2meow_jax.commands import listen
from v2meow_jax.evaluation import listening_test, preferences
from v2meow_jax.evaluation.preferences import Answer, Answers


def test_two_systems_have_the_odds_of_their_wins():
  strengths = preferences.bradley_terry(np.array([[0, 30], [10, 0]]), prior=0)
  assert strengths[0] - strengths[1] == pytest.approx(np.log(3), abs=1e-5)
  never_lost = preferences.bradley_terry(np.array([[0, 5], [0, 0]]))
  assert never_lost[0] - never_lost[1] == pytest.approx(np.log(5.1 / 0.1), rel=1e-4)


def test_strengths_are_a_logistic_regressions():
  rng = np.random.default_rng(0)
  wins = rng.integers(1, 30, (4, 4)).astype(float)
  np.fill_diagonal(wins, 0)

  def loss(free):
    s = np.concatenate([[0], free])
    return -sum(wins[i, j] * np.log(1 / (1 + np.exp(s[j] - s[i]))) for i in range(4) for j in range(4))

  wanted = np.concatenate(
    [[0], scipy.optimize.minimize(loss, np.zeros(3), method='Nelder-Mead', tol=1e-10).x]
  )
  assert preferences.bradley_terry(wins, prior=0) == pytest.approx(wanted - wanted.mean(), abs=1e-4)


def test_the_interval_of_a_share_is_scipys():
  wanted = scipy.stats.binomtest(17, 40).proportion_ci(method='wilson')
  assert preferences.wilson(17, 40) == pytest.approx((wanted.low, wanted.high))


def listener(name, answers, attentive=True):
  check = Answer('x', 'a', 'noise', 'left' if attentive else 'right', 'left')
  return Answers('t', name, [*answers, check])


def test_a_known_world_is_found_and_the_inattentive_are_left_out():
  rng, strength = np.random.default_rng(0), {'a': 1.0, 'b': 0.0, 'c': -1.0}
  files = []
  for n in range(30):
    answers = []
    for left, right in [('a', 'b'), ('c', 'b'), ('c', 'a')] * 4:
      first = rng.random() < 1 / (1 + np.exp(strength[right] - strength[left]))
      answers.append(Answer('x', left, right, 'left' if first else 'right'))
    files.append(listener(str(n), answers))
  files += [listener('bad', [Answer('x', 'c', 'a', 'left')] * 100, attentive=False)]
  found = preferences.score(files)
  assert found['listeners'] == 30 and found['left_out'] == 1
  for name, value in strength.items():
    told = found['strengths'][name]
    # 240 answers on each, a standard error of about 0.13
    assert told['value'] == pytest.approx(value, abs=0.4)
    assert told['interval'][0] < told['value'] < told['interval'][1]
  assert found['pairs']['a over c']['count'] == 120 and found['pairs']['a over c']['value'] > 0.8
  same = preferences.score([listener('x', [Answer('x', 'a', 'b', 'same')] * 10)])
  assert same['pairs']['a over b']['value'] == 0.5 and same['strengths']['a']['value'] == pytest.approx(
    0, abs=1e-6
  )
  with pytest.raises(errors.DatasetError, match='none passed'):
    preferences.score([listener('x', [], attentive=False)])


def test_every_pair_is_asked_once_on_random_sides():
  pieces = {f'p{n}': ['a', 'b', 'c'] for n in range(20)}
  asked = listening_test.questions(pieces, checks=3, seed=0)
  real = [q for q in asked if not q.check]
  assert len({(q.piece, *sorted((q.left, q.right))) for q in real}) == len(real) == 60
  assert 15 < sum(q.left < q.right for q in real) < 45
  assert len(asked) == 63 and all('noise' in (q.left, q.right) for q in asked if q.check)
  assert [q.piece for q in real] != sorted(q.piece for q in real)


def test_a_page_is_made_and_its_answers_scored(tmp_path, capsys):
  for system in 'ab':
    music(tmp_path / system, 2, seconds=1)
  out = tmp_path / 'test'
  systems = [f'{system}={tmp_path / system}' for system in 'ab']
  assert listen.main(['page', *systems, '--out', str(out), '--checks', '1']) == 0
  page, key = (out / 'page' / 'index.html').read_text(), json.loads((out / 'key.json').read_text())
  assert len(key['questions']) == 3 and len(list((out / 'page' / 'media').iterdir())) == 5
  assert 'p0' not in page and str(tmp_path) not in page  # nobody sees who made what
  right = [q['check'] or ('left' if q['left'] == 'a' else 'right') for q in key['questions']]
  answers = {'test': key['test'], 'listener': 'x', 'answers': list(enumerate(right))}
  (tmp_path / 'answers.json').write_text(json.dumps(answers))
  arguments = ['score', str(tmp_path / 'answers.json'), '--key', str(out / 'key.json')]
  assert listen.main([*arguments, '--out', str(tmp_path / 'scores.json')]) == 0
  scores = json.loads((tmp_path / 'scores.json').read_text())
  assert scores['pairs']['a over b']['value'] == 1 and '1 listeners, 0 left out' in capsys.readouterr().out
  (tmp_path / 'answers.json').write_text(json.dumps(answers | {'test': 'other'}))
  with pytest.raises(errors.DatasetError, match='of another test'):
    listen.main(arguments)
