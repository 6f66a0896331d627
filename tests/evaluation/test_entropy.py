"""Entropies against closed forms and a brute-force count."""

import collections
import itertools
import math

import numpy as np
import pytest

from v2meow_jax.evaluation import entropy


def test_unigram_of_a_fair_coin_is_one_bit():
  tokens = [np.tile([0, 1], 50_000)]
  # Adding one to each of two large counts moves nothing measurable.
  assert entropy.unigram(tokens, tokens, 2) == pytest.approx(math.log(2), abs=1e-9)


def test_unigram_pays_for_tokens_never_seen():
  # Counts (9 + 1, 0 + 1): the unseen token has probability 1 / 11.
  assert entropy.unigram([np.zeros(9, int)], [np.ones(3, int)], 2) == pytest.approx(math.log(11))


def test_bigram_of_a_cycle_approaches_zero():
  cycle = [np.arange(30_000) % 7]
  # Each context has 4,286 continuations of one kind: the error is below 1 / 4286.
  assert entropy.bigram(cycle, cycle, 7) == pytest.approx(0, abs=1 / 4285)


def test_bigram_agrees_with_a_brute_force_count():
  rng = np.random.default_rng(0)
  train = [rng.integers(0, 5, n) for n in (40, 60)]
  held_out = [rng.integers(0, 6, 30)]  # token 5 is new
  single = collections.Counter(int(t) for clip in train for t in clip)
  total = sum(single.values()) + 6
  followers = collections.defaultdict(collections.Counter)
  for clip in train:
    for a, b in itertools.pairwise(clip):
      followers[int(a)][int(b)] += 1
  losses = []
  for a, b in zip(held_out[0][:-1], held_out[0][1:], strict=True):
    base = (single[int(b)] + 1) / total
    seen = sum(followers[int(a)].values())
    kinds = len(followers[int(a)])
    weight = seen / (seen + kinds) if seen else 0.0
    pair = followers[int(a)][int(b)] / seen if seen else 0.0
    losses.append(-math.log(weight * pair + (1 - weight) * base))
  assert entropy.bigram(train, held_out, 6) == pytest.approx(np.mean(losses), rel=1e-12)


def test_levels_are_measured_on_their_own():
  clip = np.stack([np.zeros(1000, int), np.arange(1000) % 2], 1)
  found = entropy.by_level(entropy.unigram, [clip], [clip], 2)
  assert found[0] < 0.01 and found[1] == pytest.approx(math.log(2), abs=1e-5)
