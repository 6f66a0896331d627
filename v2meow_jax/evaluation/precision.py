"""What a stage loses by arithmetic of less precision."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def against_exact(
  exact: Callable[[dict], Float[Array, '*n codes']],
  rough: Callable[[dict], Float[Array, '*n codes']],
  batches: Iterable[dict],
  mask: str,
) -> dict[str, float]:
  """Compares the distributions that two forms of a model predict for the same tokens.

  Args:
    exact, rough: batch -> logits [batch, frames, depth, codes].
    batches: to compare on.
    mask: name of the frames that count, [batch, frames].

  Returns:
    `agreement`: share of the tokens for which both find the same code the likeliest; `divergence`: mean
    Kullback-Leibler divergence of the rough distribution from the exact one, in nats a token; `tokens`.
  """

  @jax.jit
  def sums(one, other, weights):
    one, other = (jax.nn.log_softmax(logits.astype(jnp.float32)) for logits in (one, other))
    weights = jnp.broadcast_to(weights[..., None], one.shape[:-1])
    same = one.argmax(-1) == other.argmax(-1)
    divergence = (jnp.exp(one) * (one - other)).sum(-1)
    return jnp.stack([(same * weights).sum(), (divergence * weights).sum(), weights.sum()])

  rows = [np.asarray(sums(exact(batch), rough(batch), batch[mask]), np.float64) for batch in batches]
  same, divergence, count = np.sum(rows, 0)
  return {'agreement': same / count, 'divergence': divergence / count, 'tokens': int(count)}
