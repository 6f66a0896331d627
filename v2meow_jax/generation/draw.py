"""Draws tokens from logits by a `Sampling`: temperature, top-k, top-p."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from v2meow_jax.sampling import Knobs


def restrict(
  logits: Float[Array, '*b codes'], knobs: Knobs, candidates: int | None = None
) -> tuple[Float[Array, '*b candidates'], Int[Array, '*b candidates']]:
  """The likeliest codes' logits, greatest first and -inf outside of top-k and then of top-p, and which codes
  they are; of equal ones the first in the vocabulary go before.

  Args:
    logits: of each level.
    knobs: top-k and top-p.
    candidates: codes that are ranked, at least top-k; all by default. Few are found much faster than all are
      sorted.
  """
  codes = logits.shape[-1]
  ranked, places = jax.lax.top_k(logits, codes if candidates is None else min(candidates, codes))
  limit = jnp.where(knobs.top_k > 0, knobs.top_k, codes)
  kept = jnp.arange(ranked.shape[-1]) < limit
  probabilities = jax.nn.softmax(jnp.where(kept, ranked, -jnp.inf), -1)
  before = jnp.cumsum(probabilities, -1) - probabilities
  # A token stays while those before it do not yet sum to p; the first one always stays. The sums may
  # miss 1 by rounding, so that p = 1 has to be asked for.
  kept = kept & ((before < knobs.top_p) | (knobs.top_p >= 1))
  return jnp.where(kept, ranked, -jnp.inf), places


def draw(keys: Array, logits: Float[Array, 'b k codes'], knobs: Knobs, candidates: int) -> Int[Array, 'b k']:
  """One token for each row and level.

  Args:
    keys: [b], the rows' own, so that rows do not depend on each other.
    logits: of each level.
    knobs: temperature (0: the likeliest token), top-k, top-p.
    candidates: see `Sampling.candidates`; 0: top-k and top-p are not looked at.
  """
  scaled = logits / jnp.where(knobs.temperature > 0, knobs.temperature, 1.0)
  # What `jax.random.categorical` adds, of which the greatest sum is its choice.
  noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], logits.dtype))(keys)
  if candidates:
    ranked, places = restrict(scaled, knobs, candidates)
    # XLA makes noise of its random bits where it is read: for candidates alone.
    best = jnp.argmax(ranked + jnp.take_along_axis(noise, places, -1), -1, keepdims=True)
    drawn = jnp.take_along_axis(places, best, -1)[..., 0]
  else:
    drawn = jnp.argmax(scaled + noise, -1)
  return jnp.where(knobs.temperature > 0, drawn, jnp.argmax(logits, -1)).astype(jnp.int32)
