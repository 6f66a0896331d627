"""Does a stage listen to a condition? Its likelihood under the clip's own condition against others'."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np


def own_against_foreign(
  score: Callable[[dict], np.ndarray], batches: Iterable[dict], stream: str
) -> dict[str, float]:
  """Compares log-likelihoods when a condition is exchanged between the examples of a batch.

  Args:
    score: batch -> log-likelihood of each token [batch, frames, depth] in nats, 0 where masked.
    batches: with more than one example each, of different clips.
    stream: name of the condition that is exchanged.

  Returns:
    `own`, `foreign`, `missing`: mean nats a token (a loss: lower is better) with the example's own
    condition, with the next example's, and with the null vector; `gain`: foreign - own;
    `gain_error`: standard error of that over examples; `own_wins`: share of the examples whose own
    condition is the likelier one; `examples`.
  """
  rows = []
  for batch in batches:
    own = score(batch)
    names = (stream, f'{stream}/mask', f'{stream}/offset')
    foreign = score(batch | {name: jnp.roll(batch[name], 1, 0) for name in names})
    missing = score(batch | {names[1]: jnp.zeros_like(batch[names[1]])})
    count = np.maximum((np.asarray(own) != 0).sum((1, 2)), 1)
    rows.append(np.stack([-np.asarray(x).sum((1, 2)) / count for x in (own, foreign, missing)], 1))
  losses = np.concatenate(rows)
  gain = losses[:, 1] - losses[:, 0]
  return {
    'own': float(losses[:, 0].mean()),
    'foreign': float(losses[:, 1].mean()),
    'missing': float(losses[:, 2].mean()),
    'gain': float(gain.mean()),
    'gain_error': float(gain.std(ddof=1) / np.sqrt(len(gain))),
    'own_wins': float((gain > 0).mean()),
    'examples': len(gain),
  }
