"""What a token stream costs without a network: the yardsticks beside a stage's loss."""

import numpy as np
from jaxtyping import Float, Int


def unigram(train: list[Int[np.ndarray, ' n']], held_out: list[Int[np.ndarray, ' n']], codes: int) -> float:
  """Cross-entropy of held-out tokens in nats under the training tokens' counts, one added to each."""
  counts = np.bincount(np.concatenate(train), minlength=codes) + 1.0
  return float(-np.log(counts / counts.sum())[np.concatenate(held_out)].mean())


def bigram(train: list[Int[np.ndarray, ' n']], held_out: list[Int[np.ndarray, ' n']], codes: int) -> float:
  """Cross-entropy of held-out tokens in nats, each given the one before it in its clip.

  Pair frequencies of the training tokens, interpolated with the unigram by Witten and Bell's weights
  (1991, method C): a context seen n times with t different followers trusts its pairs n / (n + t).
  """
  single = np.bincount(np.concatenate(train), minlength=codes) + 1.0
  single /= single.sum()
  pairs = np.zeros((codes, codes))
  for clip in train:
    np.add.at(pairs, (clip[:-1], clip[1:]), 1)
  seen, kinds = pairs.sum(1), (pairs > 0).sum(1)
  losses = []
  for clip in held_out:
    before, after = clip[:-1], clip[1:]
    total = seen[before] + kinds[before]
    mixed = (pairs[before, after] + kinds[before] * single[after]) / np.maximum(total, 1)
    losses.append(-np.log(np.where(total > 0, mixed, single[after])))
  return float(np.concatenate(losses).mean())


def by_level(
  function, train: list[np.ndarray], held_out: list[np.ndarray], codes: int
) -> Float[np.ndarray, ' levels']:
  """`unigram` or `bigram` of each level of clips [n, levels]."""
  levels = train[0].shape[1]
  return np.array(
    [function([c[:, k] for c in train], [c[:, k] for c in held_out], codes) for k in range(levels)]
  )
