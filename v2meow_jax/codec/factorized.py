"""DAC's residual quantiser: codes are looked up in a small space, by cosine (Kumar et al. 2023)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import gin
from v2meow_jax import errors


@gin.register
@dataclasses.dataclass(frozen=True)
class FactorizedConfig:
  """Settings of the quantiser; it is for use, not for training.

  Its weights are `input` and `output`, each a `kernel` [levels, from, to] and a `bias` [levels, to], and
  `vectors` [levels, codes, width].

  Attributes:
    levels: codebooks, each quantising what the ones before left over.
    codes: entries of a codebook.
    dimension: of the latents.
    width: of the space in which codes are looked up.
  """

  levels: int = 9
  codes: int = 1024
  dimension: int = 1024
  width: int = 8

  def __post_init__(self):
    if min(self.levels, self.codes - 1, self.dimension, self.width) < 1:
      raise errors.ConfigError('quantiser: levels, dimension and width must be positive and codes at least 2')

  def encode(self, weights: dict, latents: Float[Array, '*n d']) -> Int[Array, '*n levels']:
    """The code of the greatest cosine in each level; of equals the first."""
    vectors, codes, residual = weights['vectors'], [], latents
    for k in range(self.levels):
      projected = residual @ weights['input']['kernel'][k] + weights['input']['bias'][k]
      index = jnp.argmax(projected @ _unit(vectors[k]).T, -1)  # the projection's own norm changes nothing
      residual = residual - self._project(weights, k, index)
      codes.append(index)
    return jnp.stack(codes, -1)

  def decode(self, weights: dict, codes: Int[Array, '*n used']) -> Float[Array, '*n d']:
    """Sum of the projected, un-normalised entries that the codes of the first `used` levels name."""
    total = self._project(weights, 0, codes[..., 0])
    for k in range(1, codes.shape[-1]):
      total += self._project(weights, k, codes[..., k])
    return total

  def _project(self, weights: dict, level: int, index: Int[Array, '*n']) -> Float[Array, '*n d']:
    """Entries of a level in the latents' space."""
    out = weights['output']
    return weights['vectors'][level][index] @ out['kernel'][level] + out['bias'][level]


def _unit(x: Array) -> Array:
  return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
