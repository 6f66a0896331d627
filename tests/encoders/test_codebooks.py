"""Quantisers fitted block by block, against scikit-learn; tokens of an encoder."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.cluster import KMeans

from v2meow_jax import errors
from v2meow_jax.encoders import codebooks, tokens
from v2meow_jax.encoders.codebooks import Quantizer
from v2meow_jax.streams import Stream


def cloud(n=3000, d=4, seed=0):
  """Blobs of different sizes, and noise."""
  rng = np.random.default_rng(seed)
  middles = rng.uniform(-4, 4, (12, d))
  which = rng.choice(12, n, p=np.arange(1, 13) / 78)
  return (middles[which] + rng.standard_normal((n, d))).astype(np.float32)


def blocks_of(points, size=700):
  return lambda: (points[n : n + size] for n in range(0, len(points), size))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
  monkeypatch.setattr(codebooks, 'ROWS', 512)  # blocks and pieces end at different places


def test_one_level_is_as_good_as_scikit_learns_k_means():
  points = cloud()
  made = codebooks.fit(blocks_of(points), 1, 24, sample=1000)
  reference = KMeans(24, n_init=10, random_state=0).fit(points).inertia_ / len(points)
  assert made.error(points) < 1.05 * reference
  # It is where Lloyd's algorithm stays.
  again = KMeans(24, init=made.codebooks[0], n_init=1, max_iter=1).fit(points).inertia_ / len(points)
  assert made.error(points) < 1.005 * again


def test_every_level_takes_what_scikit_learn_would_take_of_the_rest():
  points = cloud()
  made = codebooks.fit(blocks_of(points), 3, 16)
  residual = points
  for level in range(3):
    reference = KMeans(16, n_init=5, random_state=0).fit(residual).inertia_ / len(points)
    part = Quantizer.plain(made.codebooks[: level + 1])
    assert part.error(points) < 1.05 * reference
    residual = residual - made.codebooks[level][part.quantize(points)[:, level]]


def test_no_code_is_unused_though_nearly_all_points_are_the_same():
  rng = np.random.default_rng(0)
  points = np.zeros((4000, 3), np.float32)
  points[::250] = rng.standard_normal((16, 3))
  # The sample that the level starts from holds few of the others.
  made = codebooks.fit(blocks_of(points), 1, 12, sample=40)
  assert len(np.unique(made.quantize(points))) == 12
  few = codebooks.fit(blocks_of(np.zeros((50, 2), np.float32)), 1, 8)  # fewer different points than codes
  assert np.isfinite(few.codebooks).all() and few.error(np.zeros((5, 2))) == 0


def test_the_sample_is_of_all_and_the_same_twice():
  points = np.arange(5000, dtype=np.float32)[:, None]
  found = [codebooks._surveyed(blocks_of(points)(), 500, np.random.default_rng(3)) for _ in range(2)]
  np.testing.assert_array_equal(found[0][0], found[1][0])
  sample, count, mean, deviation = found[0]
  assert len(np.unique(sample)) == 500 and count == 5000
  # Of 500 draws from 5,000, the share of a tenth is 50 +- 4 x 6.4.
  assert all(abs(share - 50) < 26 for share in np.histogram(sample, 10, (0, 5000))[0])
  assert mean == pytest.approx(2499.5) and deviation == pytest.approx(points.std())


def test_normalised_dimensions_weigh_the_same():
  points = cloud() * np.array([1, 100, 0.01, 1], np.float32) + 7
  made = codebooks.fit(blocks_of(points), 1, 24, normalise=True)
  standard = (points - points.mean(0)) / (points.std(0) + 1e-3)
  reference = KMeans(24, n_init=10, random_state=0).fit(standard).inertia_ / len(points)
  assert made.error(points) < 1.06 * reference


def test_what_cannot_be_fitted_is_told():
  points = cloud(30)
  for wrong, words in (((0, 4), 'levels'), ((1, 1), 'codes >= 2')):
    with pytest.raises(errors.ConfigError, match=words):
      codebooks.fit(blocks_of(points), *wrong)
  with pytest.raises(errors.DatasetError, match='30 vectors'):
    codebooks.fit(blocks_of(points), 1, 31)
  with pytest.raises(errors.DatasetError, match='nothing to fit'):
    codebooks.fit(lambda: [], 1, 4)
  points[3, 1] = np.nan
  with pytest.raises(errors.DatasetError, match='not finite'):
    codebooks.fit(blocks_of(points), 1, 4)


PROGRAM = """
import sys, numpy as np, jax
sys.path.insert(0, sys.argv[1])
from test_codebooks import blocks_of, cloud
from v2meow_jax.encoders import codebooks
codebooks.ROWS = 512
assert len(jax.devices()) == 4
print(float(np.abs(codebooks.fit(blocks_of(cloud()), 2, 8).codebooks
                   - codebooks.fit(blocks_of(cloud()), 2, 8, devices=jax.devices()[:1]).codebooks).max()))
"""


def test_four_devices_find_what_one_does():
  environment = os.environ | {'JAX_NUM_CPU_DEVICES': '4'}
  arguments = [sys.executable, '-c', PROGRAM, os.path.dirname(__file__)]
  made = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
  assert float(made.stdout) < 1e-4  # sums in another order


class Embedder:
  """Gives a clip's name as vectors."""

  needs = 'audio'
  stream = Stream('audio/letters', 'embedding', 2, 4)
  identity = {'encoder': 'letters', 'model': 'here', 'sha256': 'a'}  # noqa: RUF012

  def encode_clip(self, clip):
    if clip == 'broken':
      raise errors.MediaError('broken')
    return cloud(6, seed=len(clip))


def test_tokens_are_codes_of_the_embedders_elements(tmp_path):
  quantizer = codebooks.fit(blocks_of(cloud()), 2, 8)
  stream = Stream('audio/semantic', 'tokens', 2, 2, 8)
  tokens.TokenEncoder(quantizer, stream, Embedder.identity, 'audio').save(tmp_path / 'codes.safetensors')
  made = tokens.load(tmp_path / 'codes.safetensors', Embedder())
  assert made.stream == stream and made.needs == 'audio'
  np.testing.assert_array_equal(made.encode_clip('abc'), quantizer.quantize(cloud(6, seed=3)))
  found = made.encode_clips(['abc', 'broken', 'ab'])
  assert isinstance(found[1], errors.MediaError)
  np.testing.assert_array_equal(found[2], quantizer.quantize(cloud(6, seed=2)))
  assert json.loads(json.dumps(made.identity))['embedder'] == Embedder.identity

  class Other(Embedder):
    identity = Embedder.identity | {'sha256': 'b'}

  class Moved(Embedder):
    identity = Embedder.identity | {'model': 'there'}

  with pytest.raises(errors.ConfigError, match='another encoder'):
    tokens.load(tmp_path / 'codes.safetensors', Other())
  assert tokens.load(tmp_path / 'codes.safetensors', Moved()).identity == made.identity
  with pytest.raises(errors.ConfigError, match='not given'):
    tokens.load(tmp_path / 'codes.safetensors').encode_clip('abc')
  (tmp_path / 'codes.safetensors').write_bytes(b'no')
  for name in ('codes.safetensors', 'none'):
    with pytest.raises(errors.BundleError, match='fit-tokens'):
      tokens.load(tmp_path / name)
