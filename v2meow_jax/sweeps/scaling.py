"""How the loss falls with size and data: L(N, D) = E + A / N^a + B / D^b.

The form and the way to fit it are those of Hoffmann et al. 2022 (arXiv 2203.15556, section 3.3 and appendix
D.2): the Huber loss of the logarithms with delta 1e-3, from a grid of beginnings. Compute is C = 6 N D.
"""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Float
from scipy import optimize, special

from v2meow_jax import errors

_DELTA = 1e-3
_FLOPS_A_TOKEN = 6  # and parameter


@dataclasses.dataclass(frozen=True)
class Law:
  """The five numbers; call it for the loss.

  Attributes:
    floor: E, nats a token.
    size_factor, data_factor: A and B.
    size_exponent, data_exponent: a and b.
  """

  floor: float
  size_factor: float
  data_factor: float
  size_exponent: float
  data_exponent: float

  def __call__(self, sizes: Float[np.ndarray, ' n'], tokens: Float[np.ndarray, ' n']) -> np.ndarray:
    """Loss of runs of so many parameters on so many tokens."""
    of_size = self.size_factor / sizes**self.size_exponent
    return self.floor + of_size + self.data_factor / tokens**self.data_exponent

  @property
  def exponents(self) -> tuple[float, float]:
    """(a, b)."""
    return self.size_exponent, self.data_exponent

  def best_size(self, compute: float) -> float:
    """Parameters with which a budget of FLOPs gives the lowest loss; the paper's equation 4."""
    a, b = self.exponents
    ratio = (a * self.size_factor / (b * self.data_factor)) ** (1 / (a + b))
    return ratio * (compute / _FLOPS_A_TOKEN) ** (b / (a + b))


def fit(
  sizes: Float[np.ndarray, ' n'], tokens: Float[np.ndarray, ' n'], losses: Float[np.ndarray, ' n']
) -> Law:
  """The law nearest to the losses of runs.

  Raises:
    errors.ConfigError: fewer runs than the law has numbers, or a loss that is not positive and finite.
  """
  if len(losses) < 5:
    raise errors.ConfigError(f'{len(losses)} runs: a law of scaling needs at least 5')
  if not (np.isfinite(losses).all() and (np.asarray(losses) > 0).all()):
    raise errors.ConfigError('a law of scaling needs finite, positive losses')
  n, d, wanted = np.log(sizes), np.log(tokens), np.log(losses)

  def distance(x: np.ndarray) -> tuple[float, np.ndarray]:
    """The sum and its gradient, in units of delta, for an optimiser stops where gradients are about 1e-5."""
    parts = np.stack([x[0] - x[3] * n, x[1] - x[4] * d, np.full_like(n, x[2])])
    rest = (special.logsumexp(parts, axis=0) - wanted) / _DELTA
    slope = np.clip(rest, -1, 1) / _DELTA * special.softmax(parts, axis=0)
    gradient = np.array([*slope.sum(1), -slope[0] @ n, -slope[1] @ d])
    return float(special.huber(1.0, rest).sum()), gradient

  low = float(wanted.min())
  best = None
  beginnings = itertools.product((0.0, 5.0, 10.0), (0.0, 5.0, 10.0), (low - 0.5,), (0.5,), (0.5,))
  for start in beginnings:
    found = optimize.minimize(distance, start, jac=True, method='L-BFGS-B', options={'maxiter': 5000})
    if best is None or found.fun < best.fun:
      best = found
  assert best is not None
  log_a, log_b, log_e, a, b = best.x
  return Law(float(np.exp(log_e)), float(np.exp(log_a)), float(np.exp(log_b)), float(a), float(b))
