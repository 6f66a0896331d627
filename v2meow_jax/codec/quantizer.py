"""Residual vector quantisation with codebooks learned by moving averages (SoundStream, III-C and III-D).

The codebooks are data, not parameters: no gradient reaches them. They follow exponential moving
averages of the residuals assigned to them, start from k-means, and a code that is hardly used is
replaced by a random residual of the current batch.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

import gin
from v2meow_jax import errors
from v2meow_jax.encoders import kmeans


@gin.register
@dataclasses.dataclass(frozen=True)
class QuantizerConfig:
  """Settings of the residual quantiser.

  Attributes:
    levels: codebooks, each quantising what the ones before left over.
    codes: entries of a codebook.
    dimension: of the vectors quantised.
    decay: of the moving averages, a step.
    dead_below: a code whose moving average of uses in a batch falls below this is replaced
      (SoundStream: 2, for its batches; a small batch needs less).
    level_dropout: share of the examples that are trained on their first n levels alone, n uniform in
      [1, levels], so that one model serves all bit rates (SoundStream: 1; DAC: 0.5).
  """

  levels: int = 12
  codes: int = 1024
  dimension: int = 128
  decay: float = 0.99
  dead_below: float = 2.0
  level_dropout: float = 1.0

  def __post_init__(self):
    if min(self.levels, self.codes - 1, self.dimension) < 1:
      raise errors.ConfigError('quantiser: levels and dimension must be at least 1 and codes at least 2')
    if not 0 < self.decay < 1:
      raise errors.ConfigError(f'quantiser: decay {self.decay} is not between 0 and 1')
    if not 0 <= self.level_dropout <= 1:
      raise errors.ConfigError(f'quantiser: level_dropout {self.level_dropout} is not in [0, 1]')

  def encode(
    self, books: Float[Array, 'levels codes d'], latents: Float[Array, '*n d']
  ) -> Int[Array, '*n levels']:
    """Codes of each level."""
    return encode(books, latents)[0]

  def decode(
    self, books: Float[Array, 'levels codes d'], codes: Int[Array, '*n used']
  ) -> Float[Array, '*n d']:
    """Latents that codes of the first `used` levels stand for."""
    return decode(books, codes)


@flax.struct.dataclass
class Codebooks:
  """vectors [levels, codes, dimension], and the moving averages that they are the quotient of."""

  vectors: Float[Array, 'levels codes dimension']
  counts: Float[Array, 'levels codes']
  sums: Float[Array, 'levels codes dimension']


def empty(config: QuantizerConfig) -> Codebooks:
  """Codebooks of zeros, to be filled by `fit`."""
  shape = (config.levels, config.codes)
  return Codebooks(
    vectors=jnp.zeros((*shape, config.dimension)),
    counts=jnp.zeros(shape),
    sums=jnp.zeros((*shape, config.dimension)),
  )


def fit(config: QuantizerConfig, key: Array, latents: Float[Array, 'n d'], uses: float) -> Codebooks:
  """Codebooks by k-means, level after level, on the residuals of `latents`.

  Args:
    config: of the quantiser.
    key: random key.
    latents: vectors to be quantised; more than `codes` of them to be of use.
    uses: what the moving average of uses starts at, a code: frames of a batch over codes.
  """
  vectors = []
  residual = latents
  for level_key in jax.random.split(key, config.levels):
    centres = kmeans.fit(level_key, residual, config.codes, iterations=10)
    residual = residual - centres[kmeans.nearest(residual, centres)]
    vectors.append(centres)
  stacked = jnp.stack(vectors)
  counts = jnp.full((config.levels, config.codes), uses)
  return Codebooks(vectors=stacked, counts=counts, sums=stacked * uses)


def encode(
  vectors: Float[Array, 'levels codes d'], latents: Float[Array, '*n d']
) -> tuple[Int[Array, '*n levels'], Float[Array, '*n levels d']]:
  """Codes of each level, and the residual that each level saw."""
  codes, residuals = [], []
  residual = latents
  for level in vectors:
    index = kmeans.nearest(residual, level)
    codes.append(index)
    residuals.append(residual)
    residual = residual - level[index]
  return jnp.stack(codes, -1), jnp.stack(residuals, -2)


def decode(vectors: Float[Array, 'levels codes d'], codes: Int[Array, '*n used']) -> Float[Array, '*n d']:
  """Sum of the vectors that the codes of the first `used` levels name."""
  return jnp.sum(jnp.stack([vectors[k][codes[..., k]] for k in range(codes.shape[-1])]), 0)


def levels_in_use(config: QuantizerConfig, key: Array, batch: int) -> Int[Array, ' batch']:
  """How many levels each example is trained on."""
  count_key, whether_key = jax.random.split(key)
  count = jax.random.randint(count_key, (batch,), 1, config.levels + 1)
  dropped = jax.random.bernoulli(whether_key, config.level_dropout, (batch,))
  return jnp.where(dropped, count, config.levels)


def quantize(
  config: QuantizerConfig,
  books: Codebooks,
  latents: Float[Array, 'batch time d'],
  key: Array | None = None,
) -> tuple[
  Float[Array, 'batch time d'], Array, Int[Array, 'batch time levels'], Float[Array, 'batch time levels d']
]:
  """Quantises with a straight-through gradient.

  Args:
    config: of the quantiser.
    books: the codebooks.
    latents: what to quantise.
    key: for level dropout; None uses all levels.

  Returns:
    (quantised, commitment, codes, residuals): `commitment` is the mean over the levels in use of the
    squared distance to the chosen code (a mean over dimensions); codes and the residuals that they stand
    for are those of all levels, in use or not.
  """
  fixed = jax.lax.stop_gradient(books.vectors)
  codes, residuals = encode(fixed, latents)
  batch = latents.shape[0]
  if key is None:
    used = jnp.full((batch,), config.levels)
  else:
    used = levels_in_use(config, key, batch)
  mask = (jnp.arange(config.levels) < used[:, None]).astype(latents.dtype)[:, None, :]
  chosen = jnp.stack([fixed[k][codes[..., k]] for k in range(config.levels)], -2)
  quantised = jnp.einsum('btld,bxl->btd', chosen, mask)
  # Each level's residual carries a gradient to the latents: the codes before it are constants.
  squared = jnp.mean((residuals - chosen) ** 2, -1)
  commitment = jnp.sum(squared * mask) / (jnp.sum(mask) * latents.shape[1])
  straight = latents + jax.lax.stop_gradient(quantised - latents)
  return straight, commitment, codes, jax.lax.stop_gradient(residuals)


def update(
  config: QuantizerConfig,
  books: Codebooks,
  codes: Int[Array, 'batch time levels'],
  residuals: Float[Array, 'batch time levels d'],
  key: Array,
) -> tuple[Codebooks, Float[Array, ' levels']]:
  """Moves the codebooks towards the residuals assigned to them, and replaces dead codes.

  Every level learns from every example, those that level dropout left out included: what a level would
  have seen does not depend on whether the decoder heard it, and the last levels would else lag behind.
  The sums run over the whole batch, whichever devices hold it: every mesh gives the same codebooks.

  Returns:
    The codebooks, and the share of each level's codes that were replaced.
  """

  def update_level(vectors, counts, sums, index, residual, key):
    index, residual = index.reshape(-1), residual.reshape(-1, config.dimension)
    uses = jnp.zeros(config.codes).at[index].add(1.0)
    total = jnp.zeros_like(sums).at[index].add(residual)
    counts = config.decay * counts + (1 - config.decay) * uses
    sums = config.decay * sums + (1 - config.decay) * total
    dead = counts < config.dead_below
    drawn = residual[jax.random.randint(key, (config.codes,), 0, index.shape[0])]
    # A new code starts with an average share of uses, so that it has time to attract frames.
    share = jnp.maximum(index.shape[0] / config.codes, config.dead_below)
    counts = jnp.where(dead, share, counts)
    sums = jnp.where(dead[:, None], drawn * share, sums)
    vectors = jnp.where(dead[:, None], drawn, sums / jnp.maximum(counts, 1e-6)[:, None])
    return vectors, counts, sums, jnp.mean(dead.astype(counts.dtype))

  vectors, counts, sums, replaced = jax.vmap(update_level, in_axes=(0, 0, 0, -1, -2, 0))(
    books.vectors, books.counts, books.sums, codes, residuals, jax.random.split(key, config.levels)
  )
  return Codebooks(vectors=vectors, counts=counts, sums=sums), replaced


def usage(
  codes: Int[Array, '*n levels'], vocabulary: int
) -> tuple[Float[Array, ' levels'], Float[Array, ' levels']]:
  """Share of the codes in use, and perplexity of their distribution, a level."""
  levels = codes.shape[-1]
  flat = codes.reshape(-1, levels)
  counts = jax.vmap(lambda c: jnp.zeros(vocabulary).at[c].add(1.0), in_axes=1)(flat)
  share = counts / flat.shape[0]
  entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-12)), 0.0), -1)
  return jnp.mean(counts > 0, -1), jnp.exp(entropy)
