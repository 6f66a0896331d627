import jax
import numpy as np
import pytest
from scipy.spatial import distance
from sklearn.cluster import KMeans

from v2meow_jax.encoders import kmeans


def inertia(points, centres):
  return (distance.cdist(points, centres).min(1) ** 2).sum()


def blobs(clusters, spread, n=400, dimensions=3):
  rng = np.random.default_rng(1)
  middles = rng.uniform(-10, 10, (clusters, dimensions))
  return (middles[np.arange(n) % clusters] + spread * rng.standard_normal((n, dimensions))).astype(np.float32)


def test_nearest_is_the_least_distance_of_scipy():
  rng = np.random.default_rng(0)
  points = rng.standard_normal((4, 50, 6)).astype(np.float32)
  centres = rng.standard_normal((20, 6)).astype(np.float32)
  found = kmeans.nearest(points, centres)
  assert found.shape == (4, 50) and found.dtype == np.int32
  np.testing.assert_array_equal(np.ravel(found), distance.cdist(points.reshape(-1, 6), centres).argmin(1))


def test_the_best_of_a_few_starts_is_as_good_as_that_of_sklearn_on_separable_blobs():
  points = blobs(4, spread=0.5)
  fitted = [kmeans.fit(key, points, 4) for key in jax.random.split(jax.random.key(0), 16)]
  reference = KMeans(4, n_init=16, random_state=0).fit(points).inertia_
  # Both find the four blobs; what remains is where Lloyd's iterations are stopped.
  assert min(inertia(points, centres) for centres in fitted) == pytest.approx(reference, rel=0.02)


@pytest.mark.parametrize('spread', [0.5, 5.0])
def test_a_fit_is_a_local_minimum_that_sklearn_cannot_leave(spread):
  points = blobs(8, spread)
  centres = np.asarray(kmeans.fit(jax.random.key(3), points, 8))
  reference = KMeans(8, init=centres, n_init=1, max_iter=300, tol=0).fit(points).inertia_
  # sklearn sums in float32 (1e-6); after 20 iterations the last points to change cluster carry less than 1 %.
  assert reference * (1 - 1e-6) <= inertia(points, centres) <= 1.01 * reference


def test_every_centre_is_used_where_points_are_many():
  points = blobs(8, spread=5.0)
  for key in jax.random.split(jax.random.key(0), 10):
    assert set(np.asarray(kmeans.nearest(points, kmeans.fit(key, points, 8)))) == set(range(8))


def test_no_centre_stays_unused_where_most_points_are_the_same():
  # Such as the silence in a set of recordings: 10 different points among 400.
  rng = np.random.default_rng(0)
  points = np.zeros((400, 3), np.float32)
  points[::42] = rng.standard_normal((10, 3))
  centres = kmeans.fit(jax.random.key(0), points, 8)
  assert len(set(np.asarray(kmeans.nearest(points, centres)))) == 8


def test_fewer_points_than_clusters_give_centres_on_the_points():
  points = np.array([[0.0, 0.0], [5.0, 5.0]], np.float32)
  centres = np.asarray(kmeans.fit(jax.random.key(0), points, 6))
  assert np.isfinite(centres).all()
  assert distance.cdist(centres, points).min(1).max() == 0
