"""Draws tokens from logits by a `Sampling`: temperature, top-k, top-p."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from v2meow_jax.sampling import Knobs


def restrict(logits: Float[Array, '*b codes'], knobs: Knobs) -> Float[Array, '*b codes']:
  """Logits with -inf outside of top-k and then of top-p."""
  codes = logits.shape[-1]
  ranked = -jnp.sort(-logits, -1)
  limit = jnp.where(knobs.top_k > 0, knobs.top_k, codes)
  ranked = jnp.where(jnp.arange(codes) < limit, ranked, -jnp.inf)
  probabilities = jax.nn.softmax(ranked, -1)
  before = jnp.cumsum(probabilities, -1) - probabilities
  # A token stays while those before it do not yet sum to p; the first one always stays. The sums may
  # miss 1 by rounding, so that p = 1 has to be asked for.
  ranked = jnp.where((before < knobs.top_p) | (knobs.top_p >= 1), ranked, -jnp.inf)
  least = jnp.min(jnp.where(jnp.isfinite(ranked), ranked, jnp.inf), -1, keepdims=True)
  return jnp.where(logits >= least, logits, -jnp.inf)


def draw(
  keys: Array, logits: Float[Array, 'b k codes'], knobs: Knobs, restricted: bool = True
) -> Int[Array, 'b k']:
  """One token for each row and level.

  Args:
    keys: [b], the rows' own, so that rows do not depend on each other.
    logits: of each level.
    knobs: temperature (0: the likeliest token), top-k, top-p.
    restricted: whether top-k and top-p are looked at.
  """
  scaled = logits / jnp.where(knobs.temperature > 0, knobs.temperature, 1.0)
  if restricted:
    scaled = restrict(scaled, knobs)
  drawn = jax.vmap(jax.random.categorical)(keys, scaled)
  return jnp.where(knobs.temperature > 0, drawn, jnp.argmax(logits, -1)).astype(jnp.int32)
