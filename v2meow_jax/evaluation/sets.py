"""How far two sets of vectors or tokens are apart, as sets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import linalg

from v2meow_jax import errors

Vectors = Float[np.ndarray, 'n dimensions']


def check(vectors: Vectors, told: str) -> None:
  """Raises `errors.DatasetError` where a set is empty, of one member, or holds values that are not finite."""
  if len(vectors) < 2:
    raise errors.DatasetError(f'{told}: {len(vectors)} vectors are no set; give more or longer audio')
  if not np.isfinite(vectors).all():
    raise errors.DatasetError(f'{told}: the embedding holds values that are not finite')


def frechet(ours: Vectors, theirs: Vectors) -> float:
  """Frechet distance of the Gaussians of both sets (Dowson and Landau 1982; for audio Kilgour et al. 2019).

  |m - n|^2 + tr(S + T - 2 (S T)^(1/2)). The trace of the root is the sum of the singular values of
  S^(1/2) T^(1/2), which stays real where covariances are singular. Covariances over n - 1, as NumPy has them.
  """
  means = ours.mean(0, dtype=np.float64) - theirs.mean(0, dtype=np.float64)
  one, other = (_root(np.asarray(x, np.float64)) for x in (ours, theirs))
  traces = np.square(one).sum() + np.square(other).sum()
  return float(max(0.0, means @ means + traces - 2 * np.sum(linalg.svdvals(one @ other.T))))


def _root(vectors: np.ndarray) -> np.ndarray:
  """A with A' A the covariance, of no more rows than it needs: its products have the same singular values."""
  centred = (vectors - vectors.mean(0)) / np.sqrt(len(vectors) - 1)
  if len(centred) > centred.shape[1]:
    return np.linalg.qr(centred).R
  return centred


@dataclasses.dataclass(frozen=True)
class Extrapolation:
  """A distance as it would be for endless sets.

  Attributes:
    value: intercept of the line; an unbiased figure where the line fits.
    slope: of the line over 1 / n.
    sizes, distances: what it was fitted to.
    fit: R^2, the share of the variance that the line explains.
  """

  value: float
  slope: float
  sizes: list[int]
  distances: list[float]
  fit: float


def extrapolated_frechet(ours: Vectors, theirs: Vectors, points: int = 15, seed: int = 0) -> Extrapolation:
  """FAD-infinity (Gui et al. 2024, after Chong and Forsyth 2020).

  The distance of `n` of ours, drawn without replacement, is biased by about a constant over n: it is measured
  at sizes evenly spaced in 1 / n between a fifth of the set (at least as many as dimensions, where there are
  so many) and all of it, and a line through them is followed to 1 / n = 0.
  """
  most = len(ours)
  least = min(max(most // 5, min(ours.shape[1], most // 2), 2), most)
  sizes = np.unique(np.round(1 / np.linspace(1 / most, 1 / least, points)).astype(int))
  rng = np.random.default_rng(seed)
  distances = np.array([frechet(ours[rng.permutation(most)[:n]], theirs) for n in sizes])
  if len(sizes) < 3:
    return Extrapolation(float('nan'), float('nan'), sizes.tolist(), distances.tolist(), float('nan'))
  slope, value = np.polyfit(1 / sizes, distances, 1)
  left = distances - (value + slope / sizes)
  spread = float(np.square(distances - distances.mean()).sum())
  fit = 1 - float(np.square(left).sum()) / spread if spread > 0 else 1.0
  return Extrapolation(float(value), float(slope), sizes.tolist(), distances.tolist(), fit)


BLOCK = 1024


@functools.partial(jax.jit, static_argnames='kind')
def _kernel_sum(x: Array, y: Array, scale: Array, kind: str) -> Array:
  if kind == 'polynomial':
    return jnp.sum((x @ y.T * scale + 1) ** 3)
  squared = jnp.sum(x**2, 1)[:, None] + jnp.sum(y**2, 1)[None] - 2 * x @ y.T
  return jnp.sum(jnp.exp(-jnp.maximum(squared, 0) * scale))


def _sums(one: Vectors, other: Vectors, scale: float, kind: str) -> float:
  total = 0.0
  for a in range(0, len(one), BLOCK):
    for b in range(0, len(other), BLOCK):
      total += float(_kernel_sum(one[a : a + BLOCK], other[b : b + BLOCK], jnp.float32(scale), kind))
  return total


def mmd(ours: Vectors, theirs: Vectors, kind: str = 'polynomial', scale: float | None = None) -> float:
  """Squared maximum mean discrepancy, unbiased (Gretton et al. 2012, equation 3): may be below zero.

  Args:
    ours, theirs: sets of at least two.
    kind: `polynomial`, (x.y / d + 1)^3 of KID (Binkowski et al. 2018), or `gaussian`, exp(-scale |x - y|^2).
    scale: of the Gaussian; by default 1 / (2 median^2) of the distances in `theirs` (Chung et al. 2025).
  """
  one, other = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
  if kind == 'polynomial':
    scale = 1 / one.shape[1]
  elif scale is None:
    part = other[np.random.default_rng(0).permutation(len(other))[:1000]]
    apart = _distances(part, part)[np.triu_indices(len(part), 1)]
    scale = float(1 / (2 * max(float(np.median(apart)), 1e-12) ** 2))
  width = float(scale or 0)
  m, n = len(one), len(other)

  def diagonal(x: np.ndarray) -> float:
    if kind == 'gaussian':
      return float(len(x))
    return float(np.sum((np.square(x, dtype=np.float64).sum(1) * width + 1) ** 3))

  own = (_sums(one, one, width, kind) - diagonal(one)) / (m * (m - 1))
  their = (_sums(other, other, width, kind) - diagonal(other)) / (n * (n - 1))
  return own + their - 2 * _sums(one, other, width, kind) / (m * n)


def density_and_coverage(ours: Vectors, theirs: Vectors, k: int = 5) -> tuple[float, float]:
  """Fidelity and diversity (Naeem et al. 2020): 1 and 1 - 2^-k or so for sets of one kind.

  Density: how many balls of `theirs` (to the k-th neighbour) hold one of ours, over k. Coverage: share of the
  balls that hold at least one of ours.
  """
  k = min(k, len(theirs) - 1)
  radius = np.concatenate(
    [
      np.partition(_distances(theirs[a : a + BLOCK], theirs), k, 1)[:, k]
      for a in range(0, len(theirs), BLOCK)
    ]
  )
  held, covered = 0, np.zeros(len(theirs), bool)
  for a in range(0, len(ours), BLOCK):
    within = _distances(ours[a : a + BLOCK], theirs) < radius
    held += int(within.sum())
    covered |= within.any(0)
  return held / (k * len(ours)), float(covered.mean())


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
  squared = np.square(one).sum(1)[:, None] + np.square(other).sum(1) - 2 * one @ other.T
  return np.sqrt(np.maximum(squared, 0))


def kl(ours: Float[np.ndarray, 'n labels'], theirs: Float[np.ndarray, 'n labels']) -> Float[np.ndarray, ' n']:
  """KL(theirs | ours) in nats of pairs of label posteriors: nats lost by describing truth by what was made.

  The direction of AudioLDM's and MusicGen's tables (target first); the other one is another figure.
  """
  p, q = (np.maximum(np.asarray(x, np.float64), 1e-6) for x in (theirs, ours))
  p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
  return (p * np.log(p / q)).sum(1)


def posterior(logits: Float[np.ndarray, 'windows labels']) -> Float[np.ndarray, ' labels']:
  """A piece's distribution over labels: the mean of its windows' softmax."""
  shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, 1, keepdims=True))
  return (shifted / shifted.sum(1, keepdims=True)).mean(0)


def token_divergence(ours: Int[np.ndarray, ' codes'], theirs: Int[np.ndarray, ' codes']) -> float:
  """Jensen-Shannon divergence in nats of two distributions of tokens, from counts; 0 to ln 2."""
  p, q = (np.asarray(x, np.float64) / max(np.sum(x), 1) for x in (ours, theirs))
  middle = (p + q) / 2

  def part(x: np.ndarray) -> float:
    there = x > 0
    return float(np.sum(x[there] * np.log(x[there] / middle[there])))

  return (part(p) + part(q)) / 2
