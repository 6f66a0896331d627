"""Nats a second of sources whose entropy is known."""

import math
from fractions import Fraction

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.evaluation import causal, cost
from v2meow_jax.streams import Stream

STREAM = Stream('audio/acoustic', 'tokens', Fraction(10), 2, 8)
SMALL = causal.Recipe(
  width=32, mlp=64, layers=1, steps=75, check=25, rate=2e-2, seconds=2, dropout=0.0, decay=0.0
)


def clips(count, length, seed=0):
  """Level 0 is drawn from 4 of 8 codes; level 1 is what level 0 was two frames before."""
  rng = np.random.default_rng(seed)
  made = []
  for _ in range(count):
    first = rng.integers(0, 4, length)
    made.append(np.stack([first, np.concatenate([[0, 0], first[:-2]])], 1))
  return made


def test_a_small_model_sees_what_counts_and_pairs_do_not():
  found = cost.nats_a_second(STREAM, clips(6, 400), clips(2, 300, 1), recipe=SMALL)
  assert found['uniform']['nats_a_second'] == pytest.approx(20 * math.log(8))
  assert found['train_seconds'] == 240 and found['held_out_seconds'] == 60
  for name in ('unigram', 'bigram'):
    # Of 2,400 draws: a few thousandths of a nat above the entropy.
    assert found[name]['levels'] == pytest.approx([math.log(4)] * 2, abs=0.02)
  low, high = found['causal']['levels']
  assert low == pytest.approx(math.log(4), abs=0.05)
  assert high < 0.1  # it follows from what came before
  assert found['causal']['nats_a_second'] == pytest.approx(10 * (low + high))


def test_windows_count_each_token_once():
  stage = causal.Stage('small', (), causal.Target(STREAM, None, 'delay'), Fraction(2))
  numbered = [np.arange(n)[:, None] + np.zeros(2, int) for n in (5, 20, 21, 47)]

  def counts(params, batch):
    return -batch['audio/acoustic'].astype(float)

  # Scores are the frame's number: a mean of them over all frames tells whether each came once.
  found = causal._scored(stage, counts, None, numbered, 3)
  wanted = np.mean(np.concatenate(numbered)[:, 0])
  assert found == pytest.approx([wanted, wanted])
  skipped = causal._scored(stage, counts, None, [np.arange(47)[:, None] + np.zeros(2, int)], 3, [30])
  assert skipped == pytest.approx([np.mean(np.arange(30, 47))] * 2)


def test_few_clips_are_split_in_time_and_none_is_a_sentence():
  few = {'a': np.arange(40)[:, None]}
  train, held_out = cost.split(few)
  assert len(train[0]) + len(held_out[0]) == 40 and held_out[0][0, 0] == 30
  many = {str(n): np.full((20, 1), n) for n in range(9)}
  train, held_out = cost.split(many)
  assert [clip[0, 0] for clip in held_out] == [3, 7] and len(train) == 7
  with pytest.raises(errors.DatasetError, match='sixteen frames'):
    cost.split({'a': np.zeros((3, 1))})
