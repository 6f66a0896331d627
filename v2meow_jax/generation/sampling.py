"""Draws tokens from logits: temperature, top-k, top-p."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from v2meow_jax import errors


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How a stage's tokens are drawn.

  Attributes:
    temperature: divides the logits; 0 takes the most likely token.
    top_k: only the k most likely tokens; 0: all.
    top_p: only the fewest most likely tokens whose probabilities sum to at least p (Holtzman et al.
      2020); 1: all.
    overlap: share of a window that is carried over from the one before, in [0, 1).
    suppress: by level of the target, counted from its first: codes that are never drawn, such as those
      of silence, which a model otherwise finds hard to leave.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  overlap: float = 0.5
  suppress: tuple[tuple[int, ...], ...] = ()

  def __post_init__(self):
    object.__setattr__(self, 'suppress', tuple(tuple(level) for level in self.suppress))
    if not 0 <= self.temperature < float('inf'):
      raise errors.ConfigError(f'temperature {self.temperature} is not a number from 0 up')
    if not isinstance(self.top_k, int) or self.top_k < 0:
      raise errors.ConfigError(f'top_k {self.top_k} is not a whole number from 0 up')
    if not 0 < self.top_p <= 1:
      raise errors.ConfigError(f'top_p {self.top_p} is not in (0, 1]')
    if not 0 <= self.overlap < 1:
      raise errors.ConfigError(f'overlap {self.overlap} is not in [0, 1)')


def restrict(logits: Float[Array, '*b codes'], sampling: Sampling) -> Float[Array, '*b codes']:
  """Logits divided by the temperature, -inf outside of top-k and top-p; top-k is applied first."""
  if sampling.temperature:
    logits = logits / sampling.temperature
  if not (0 < sampling.top_k < logits.shape[-1] or sampling.top_p < 1):
    return logits
  ranked = -jnp.sort(-logits, -1)
  if 0 < sampling.top_k < logits.shape[-1]:
    ranked = jnp.where(jnp.arange(logits.shape[-1]) < sampling.top_k, ranked, -jnp.inf)
  if sampling.top_p < 1:
    probabilities = jax.nn.softmax(ranked, -1)
    before = jnp.cumsum(probabilities, -1) - probabilities
    # A token stays while those before it do not yet sum to p; the first one always stays.
    ranked = jnp.where(before < sampling.top_p, ranked, -jnp.inf)
  least = jnp.min(jnp.where(jnp.isfinite(ranked), ranked, jnp.inf), -1, keepdims=True)
  return jnp.where(logits >= least, logits, -jnp.inf)


def suppressed(
  logits: Float[Array, 'b k codes'], levels: Int[Array, ' k'], sampling: Sampling
) -> Float[Array, 'b k codes']:
  """Logits with -inf for the codes suppressed at the level of each row k."""
  if not sampling.suppress:
    return logits
  codes = np.arange(logits.shape[-1])
  banned = jnp.asarray([np.isin(codes, level) for level in sampling.suppress])
  # A level that nothing is said of has nothing suppressed.
  rows = jnp.where((levels < len(banned))[:, None], banned[jnp.minimum(levels, len(banned) - 1)], False)
  return jnp.where(rows, -jnp.inf, logits)


def draw(keys: Array, logits: Float[Array, 'b k codes'], sampling: Sampling) -> Int[Array, 'b k']:
  """One token for each row and level; `keys` [b] are the rows' own, so rows do not depend on each other."""
  if sampling.temperature == 0:
    return jnp.argmax(logits, -1).astype(jnp.int32)
  logits = restrict(logits, sampling)
  return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
