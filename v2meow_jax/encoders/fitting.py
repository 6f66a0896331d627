"""Fits what encoders learn from a dataset's clips: clusters of audio features, codebooks of style vectors."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from v2meow_jax import errors
from v2meow_jax.encoders import style
from v2meow_jax.encoders.base import StyleEncoder
from v2meow_jax.encoders.semantic import SemanticConfig, SemanticEncoder, features

LEAST = 25  # frames of a clip


def fit_semantic(
  config: SemanticConfig,
  read: Callable[[int], Float[np.ndarray, ' samples']],
  count: int,
  frames: int,
  seed: int = 0,
) -> tuple[SemanticEncoder, int]:
  """Fits normalisation and k-means to frames drawn evenly from clips, which are drawn from all.

  Args:
    config: of the features.
    read: gives a clip's mono audio at the configured sample rate, by its number.
    count: of the clips.
    frames: most that are fitted.
    seed: of the draw and of k-means.

  Returns:
    (encoder, frames that were drawn).

  Raises:
    errors.ConfigError: fewer frames than codes are asked for.
    errors.DatasetError: there are fewer frames than codes.
  """
  if config.codes < 2 or frames < config.codes:
    raise errors.ConfigError(f'--codes {config.codes} and --frames {frames}: need 2 <= codes <= frames')
  rng = np.random.default_rng(seed)
  # Of many clips some are enough: `LEAST` frames of each.
  chosen = range(count) if count * LEAST <= frames else sorted(rng.permutation(count)[: -(-frames // LEAST)])
  share = -(-frames // max(len(chosen), 1))
  points = [rng.permutation(features(config, read(int(clip))))[:share] for clip in chosen]
  if not points:
    raise errors.DatasetError('there is no clip to fit clusters to')
  encoder = SemanticEncoder.fit(config, np.concatenate(points)[:frames], seed)
  return encoder, sum(map(len, points))


def fit_style(
  embedder: StyleEncoder, vectors: Float[np.ndarray, 'n d'], levels: int, codes: int, seed: int = 0
) -> style.StyleTokens:
  """Fits a residual quantiser to the vectors of an embedder.

  Raises:
    errors.ConfigError: no level, or fewer than two codes.
    errors.DatasetError: there are fewer vectors than codes.
  """
  return style.StyleTokens(embedder, style.fit(vectors, levels, codes, seed))
