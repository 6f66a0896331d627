"""Distances of sets against SciPy's matrix square root, scikit-learn, closed forms and brute force."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.stats
import sklearn.metrics.pairwise
import sklearn.neighbors

from v2meow_jax import errors
from v2meow_jax.evaluation import sets


def two(m=60, n=80, d=7, seed=0):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((m, d)) @ rng.standard_normal((d, d)), rng.standard_normal((n, d)) + 0.5


def test_frechet_distance_is_that_of_the_matrix_square_root():
  ours, theirs = two()
  s, t = np.cov(ours.T), np.cov(theirs.T)
  apart = ours.mean(0) - theirs.mean(0)
  wanted = apart @ apart + np.trace(s + t - 2 * scipy.linalg.sqrtm(s @ t).real)
  assert sets.frechet(ours, theirs) == pytest.approx(wanted, rel=1e-9)
  assert sets.frechet(ours, ours) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_fewer_vectors_than_dimensions():
  # Rotations cancel: two sets in one plane of 50 dimensions are as far apart as in two.
  rng = np.random.default_rng(0)
  ours, theirs = rng.standard_normal((9, 2)), 2 * rng.standard_normal((12, 2)) + 1
  basis = np.linalg.qr(rng.standard_normal((50, 2)))[0]
  assert sets.frechet(ours @ basis.T, theirs @ basis.T) == pytest.approx(sets.frechet(ours, theirs), rel=1e-9)


def test_extrapolation_takes_the_bias_of_small_sets_away():
  # One Gaussian twice: the distance is 0, and of 200 vectors in 20 dimensions it is not.
  rng = np.random.default_rng(0)
  reference = rng.standard_normal((5000, 20))
  found = [sets.extrapolated_frechet(rng.standard_normal((200, 20)), reference, seed=n) for n in range(5)]
  plain = np.mean([row.distances[-1] for row in found])
  assert plain > 0.4 and abs(np.mean([row.value for row in found])) < 0.15 * plain
  assert min(row.fit for row in found) > 0.9 and found[0].sizes[0] >= 20 and found[0].sizes[-1] == 200


def test_mmd_is_the_sum_over_pairs():
  ours, theirs = two(30, 40)
  for kind, function in (
    ('polynomial', lambda a, b: sklearn.metrics.pairwise.polynomial_kernel(a, b, 3, 1 / 7, 1)),
    ('gaussian', lambda a, b: sklearn.metrics.pairwise.rbf_kernel(a, b, 0.1)),
  ):
    one, other, cross = function(ours, ours), function(theirs, theirs), function(ours, theirs)
    for own in (one, other):
      np.fill_diagonal(own, 0)
    wanted = one.sum() / (30 * 29) + other.sum() / (40 * 39) - 2 * cross.mean()
    # float32 sums of values up to some hundreds
    assert sets.mmd(ours, theirs, kind, scale=0.1) == pytest.approx(wanted, rel=1e-3, abs=1e-5)


def test_mmd_is_unbiased_and_its_default_scale_the_median():
  rng = np.random.default_rng(0)
  found = [sets.mmd(rng.standard_normal((12, 3)), rng.standard_normal((12, 3))) for _ in range(100)]
  error = np.std(found) / 10
  assert abs(np.mean(found)) < 4 * error and min(found) < 0
  ours, theirs = two(20, 30)
  scale = 1 / (2 * np.median(scipy.spatial.distance.pdist(theirs)) ** 2)
  assert sets.mmd(ours, theirs, 'gaussian') == pytest.approx(
    sets.mmd(ours, theirs, 'gaussian', scale), rel=1e-3
  )


def test_density_and_coverage_count_balls():
  ours, theirs = two(25, 40, 3)
  near = sklearn.neighbors.NearestNeighbors(n_neighbors=6).fit(theirs)
  radius = near.kneighbors(theirs)[0][:, 5]
  within = scipy.spatial.distance.cdist(ours, theirs) < radius
  density, coverage = sets.density_and_coverage(ours, theirs)
  assert density == pytest.approx(within.sum() / (5 * 25)) and coverage == pytest.approx(within.any(0).mean())
  rng = np.random.default_rng(1)
  density, coverage = sets.density_and_coverage(rng.standard_normal((800, 4)), rng.standard_normal((800, 4)))
  # Naeem et al.: 1 and 1 - 2^-5 are expected where both are drawn from one distribution.
  assert density == pytest.approx(1, abs=0.1) and coverage == pytest.approx(1 - 2**-5, abs=0.03)


def test_divergences_are_scipys_and_kl_goes_from_truth():
  p, q = np.array([[0.7, 0.2, 0.1]]), np.array([[0.2, 0.3, 0.5]])
  assert sets.kl(q, p)[0] == pytest.approx(scipy.stats.entropy(p[0], q[0]), rel=1e-4)
  counts = np.array([5, 0, 3]), np.array([1, 1, 2])
  wanted = scipy.spatial.distance.jensenshannon(*counts) ** 2
  assert sets.token_divergence(*counts) == pytest.approx(wanted)
  assert sets.token_divergence(np.array([1, 0]), np.array([0, 9])) == pytest.approx(math.log(2))


def test_no_set_is_a_sentence():
  with pytest.raises(errors.DatasetError, match='1 vectors are no set'):
    sets.check(np.zeros((1, 3)), 'music')
  with pytest.raises(errors.DatasetError, match='not finite'):
    sets.check(np.full((3, 3), np.nan), 'music')
