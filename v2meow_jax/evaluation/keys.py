"""Keys of music, by how well its pitch classes fit profiles of them."""

import numpy as np
from jaxtyping import Float

# Krumhansl and Kessler 1982: how well each pitch class fits C major and C minor.
MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


def key_of(chroma: Float[np.ndarray, '12']) -> tuple[int, bool] | None:
  """(tonic, whether it is major) of the profile that correlates best; None where nothing sounds."""
  if np.ptp(chroma) < 1e-9:
    return None
  rows = [np.roll(profile, tonic) for profile in (MAJOR, MINOR) for tonic in range(12)]
  best = int(np.argmax(np.corrcoef(chroma, rows)[0, 1:]))
  return best % 12, best < 12


def key_agreement(ours: tuple[int, bool] | None, theirs: tuple[int, bool] | None) -> float:
  """MIREX's weights: 1 the same key, 0.5 a fifth above, 0.3 relative, 0.2 parallel; else 0."""
  if theirs is None:
    return float('nan')
  if ours is None:
    return 0.0
  if ours == theirs:
    return 1.0
  apart = (ours[0] - theirs[0]) % 12
  if ours[1] == theirs[1]:
    return 0.5 if apart == 7 else 0.0
  if apart == (9 if theirs[1] else 3):
    return 0.3
  return 0.2 if apart == 0 else 0.0
