"""Where a film cuts from one scene to another, so that clips can end there."""

import dataclasses

import numpy as np
import scipy.ndimage

import gin
from v2meow_jax.curation import pictures
from v2meow_jax.curation.measuring import Measured


@gin.register
@dataclasses.dataclass(frozen=True)
class Scenes:
  """A cut is a change of pictures that is great, and greater than what goes on around it.

  Cuts are known to an eighth of a second. Clips end at one where that leaves them long enough, see
  `manifest.pieces_of`.

  Attributes:
    least: mean difference of two pictures, of 255.
    ratio: to the mean of the half second before and after.
  """

  least: float = 18.0
  ratio: float = 3.0

  needs = ('pictures',)

  def bounds(self, measured: Measured) -> list[float]:
    """Seconds from the begin of the span to each cut."""
    if measured.pictures is None:
      return []
    changes = np.frombuffer(measured.pictures.changes, '<f2').astype(np.float32)
    reach = pictures.RATE // 2
    around = scipy.ndimage.uniform_filter1d(changes, 2 * reach + 1, mode='nearest') * (2 * reach + 1)
    others = (around - changes) / (2 * reach)
    found = np.flatnonzero((changes >= self.least) & (changes >= self.ratio * np.maximum(others, 1e-3)))
    return [float(number) / pictures.RATE for number in found if number]
