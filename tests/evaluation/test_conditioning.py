"""Own against foreign conditions, with a scorer whose preference is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax.evaluation import conditioning


def batches(count):
  rng = np.random.default_rng(0)
  for _ in range(count):
    secret = rng.permutation(4).astype(np.float32)
    yield {
      'video/motion': jnp.asarray(secret[:, None, None]),
      'video/motion/mask': jnp.ones((4, 1), bool),
      'video/motion/offset': jnp.zeros(4),
      'audio/semantic': jnp.asarray(secret[:, None, None]),
    }


def test_a_scorer_that_listens_is_told_from_one_that_does_not():
  def listens(batch):
    wrong = jnp.abs(batch['video/motion'] - batch['audio/semantic'])
    missing = ~batch['video/motion/mask'][..., None]
    return jnp.where(missing, -5.0, -1.0 - wrong)

  found = conditioning.own_against_foreign(listens, batches(5), 'video/motion')
  assert found['own'] == pytest.approx(1) and found['missing'] == pytest.approx(5)
  # Neighbours in a permutation of 0 .. 3 always differ.
  assert found['foreign'] > 2 and found['own_wins'] == 1 and found['examples'] == 20
  assert found['gain'] == pytest.approx(found['foreign'] - found['own'])

  deaf = conditioning.own_against_foreign(lambda batch: -jnp.ones((4, 1, 1)), batches(5), 'video/motion')
  assert deaf['gain'] == 0 and deaf['own_wins'] == 0


def test_masked_tokens_do_not_dilute_the_mean():
  def score(batch):
    return jnp.asarray(np.where(np.arange(6) < 2, -3.0, 0.0))[None, :, None] * jnp.ones((4, 1, 1))

  found = conditioning.own_against_foreign(score, batches(1), 'video/motion')
  assert found['own'] == pytest.approx(3)
