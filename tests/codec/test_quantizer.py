import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.codec import quantizer
from v2meow_jax.codec.quantizer import Codebooks, QuantizerConfig

quantize, update, fit = (
  jax.jit(function, static_argnums=0) for function in (quantizer.quantize, quantizer.update, quantizer.fit)
)
encode = jax.jit(quantizer.encode)

CONFIG = QuantizerConfig(levels=3, codes=8, dimension=4, decay=0.9, dead_below=0.0)


def random_books(config=CONFIG, seed=0, uses=2.0):
  rng = np.random.default_rng(seed)
  shrinking = 0.5 ** np.arange(config.levels)[:, None, None]
  vectors = (rng.standard_normal((config.levels, config.codes, config.dimension)) * shrinking).astype(
    np.float32
  )
  counts = np.full((config.levels, config.codes), uses, np.float32)
  return Codebooks(jnp.asarray(vectors), jnp.asarray(counts), jnp.asarray(vectors * uses))


def latents(batch=5, time=7, seed=1):
  return np.random.default_rng(seed).standard_normal((batch, time, CONFIG.dimension)).astype(np.float32)


def greedy(vectors, point):
  """Codes of one vector and the residual that each level saw, by a loop."""
  codes, seen = [], []
  rest = point.astype(np.float64)
  for level in vectors:
    seen.append(rest)
    codes.append(min(range(len(level)), key=lambda i: np.sum((rest - level[i]) ** 2)))
    rest = rest - level[codes[-1]]
  return codes, seen


@pytest.mark.parametrize(
  'settings', [{'levels': 0}, {'codes': 1}, {'dimension': 0}, {'decay': 0.0}, {'decay': 1.0}]
)
def test_a_wrong_setting_is_refused(settings):
  with pytest.raises(errors.ConfigError, match=r'^quantiser: '):
    QuantizerConfig(**settings)


def test_encode_chooses_greedily_level_after_level():
  books, points = random_books(), latents()
  codes, residuals = encode(books.vectors, points)
  assert codes.shape == (5, 7, 3) and residuals.shape == (5, 7, 3, 4)
  for i in np.ndindex(5, 7):
    expected, seen = greedy(np.asarray(books.vectors), points[i])
    np.testing.assert_array_equal(codes[i], expected)
    np.testing.assert_allclose(residuals[i], seen, atol=1e-6)  # float32 differences


def test_decode_sums_the_vectors_of_the_levels_given():
  vectors = np.asarray(random_books().vectors)
  codes = np.random.default_rng(0).integers(0, 8, (2, 6, 3))
  for used in (1, 2, 3):
    expected = sum(vectors[k][codes[..., k]] for k in range(used))
    decoded = quantizer.decode(jnp.asarray(vectors), jnp.asarray(codes[..., :used]))
    np.testing.assert_allclose(decoded, expected, atol=1e-6)  # float32 sums


def test_every_level_of_fitted_books_lowers_the_error():
  points = latents(40, 10).reshape(-1, 4)
  config = QuantizerConfig(levels=4, codes=16, dimension=4)
  books = fit(config, jax.random.key(0), jnp.asarray(points), uses=3.0)
  codes, _ = encode(books.vectors, points)
  left = [np.mean(points**2)]
  left += [np.mean((points - quantizer.decode(books.vectors, codes[:, :k])) ** 2) for k in range(1, 5)]
  # 16 codes in 4 dimensions are a bit a dimension: an ideal code would leave 1/4 of the error.
  assert all(after < 0.6 * before for before, after in itertools.pairwise(left))
  np.testing.assert_array_equal(books.counts, 3.0)
  np.testing.assert_allclose(books.sums, 3.0 * books.vectors)


def test_fit_uses_every_code_of_every_level():
  points = latents(60, 10).reshape(-1, 4)
  config = QuantizerConfig(levels=3, codes=16, dimension=4)
  books = fit(config, jax.random.key(0), jnp.asarray(points), uses=1.0)
  codes, _ = encode(books.vectors, points)
  assert [len(set(np.asarray(codes[:, k]))) for k in range(3)] == [16, 16, 16]


def test_the_gradient_goes_straight_through_and_none_reaches_the_books():
  books, points = random_books(), jnp.asarray(latents())
  weight = np.random.default_rng(3).standard_normal(points.shape).astype(np.float32)

  def loss(points, vectors):
    straight, *_ = quantize(CONFIG, books.replace(vectors=vectors), points)
    return jnp.sum(straight * weight)

  to_points, to_vectors = jax.grad(loss, (0, 1))(points, books.vectors)
  np.testing.assert_array_equal(to_points, weight)
  np.testing.assert_array_equal(to_vectors, 0)
  straight, _, codes, _ = quantize(CONFIG, books, points)
  # latents + (quantised - latents) in float32.
  np.testing.assert_allclose(straight, quantizer.decode(books.vectors, codes), atol=1e-6)


def test_commitment_pulls_latents_to_the_vectors_chosen():
  books, points = random_books(), latents()

  def commitment(points):
    return quantize(CONFIG, books, points)[1]

  value, gradient = jax.value_and_grad(commitment)(jnp.asarray(points))
  squared, slope = [], np.zeros_like(points)
  for i in np.ndindex(5, 7):
    codes, seen = greedy(np.asarray(books.vectors), points[i])
    errors_ = [rest - books.vectors[k][code] for k, (rest, code) in enumerate(zip(seen, codes, strict=True))]
    squared += [np.mean(e**2) for e in errors_]
    slope[i] = sum(2 * e / 4 for e in errors_) / (5 * 7 * 3)
  # float32 sums.
  assert value == pytest.approx(np.mean(squared), rel=1e-5)
  np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_level_dropout_counts_only_the_levels_in_use():
  config = QuantizerConfig(levels=3, codes=8, dimension=4)
  books, points = random_books(config), latents(16)
  straight, commitment, codes, _ = quantize(config, books, jnp.asarray(points), jax.random.key(0))
  used = np.asarray(quantizer.levels_in_use(config, jax.random.key(0), 16))
  assert set(used) == {1, 2, 3}
  squared = []
  for b, t in np.ndindex(16, 7):
    expected, seen = greedy(np.asarray(books.vectors), points[b, t])
    np.testing.assert_array_equal(codes[b, t], expected)
    chosen = [np.asarray(books.vectors[k][expected[k]]) for k in range(used[b])]
    squared += [np.mean((seen[k] - chosen[k]) ** 2) for k in range(used[b])]
    np.testing.assert_allclose(straight[b, t], sum(chosen), atol=1e-6)  # float32 sums
  assert commitment == pytest.approx(np.mean(squared), rel=1e-5)  # float32 sums


@pytest.mark.parametrize('share', [1.0, 0.5, 0.0])
def test_level_dropout_draws_each_number_of_levels_equally_often(share):
  config = QuantizerConfig(levels=4, codes=8, dimension=4, level_dropout=share)
  counts = np.bincount(quantizer.levels_in_use(config, jax.random.key(1), 4000), minlength=5)
  wanted = 4000 * (share / 4 + (1 - share) * np.array([0, 0, 0, 1]))
  assert counts[0] == 0
  # 5 standard deviations of a binomial count.
  deviation = np.sqrt(wanted * (1 - wanted / 4000))
  assert (np.abs(counts[1:] - wanted) <= 5 * deviation).all()


def test_without_a_key_all_levels_are_in_use():
  books, points = random_books(), jnp.asarray(latents())
  straight, _, codes, _ = quantize(CONFIG, books, points)
  np.testing.assert_allclose(straight, quantizer.decode(books.vectors, codes), atol=1e-6)  # float32 sums


def test_a_share_of_dropout_outside_zero_and_one_is_refused():
  with pytest.raises(errors.ConfigError, match='level_dropout'):
    QuantizerConfig(level_dropout=1.5)


def test_update_is_a_moving_average_of_residuals():
  books, points = random_books(), latents(16)
  dropout = QuantizerConfig(levels=3, codes=8, dimension=4, decay=0.9, dead_below=0.0)
  _, _, codes, residuals = quantize(dropout, books, jnp.asarray(points), jax.random.key(0))
  new, _ = update(dropout, books, codes, residuals, jax.random.key(1))
  residuals = np.asarray(residuals, np.float64)
  counts, sums = 0.9 * np.asarray(books.counts, np.float64), 0.9 * np.asarray(books.sums, np.float64)
  for b, t, k in np.ndindex(16, 7, 3):
    code = int(codes[b, t, k])
    counts[k, code] += 0.1
    sums[k, code] += 0.1 * residuals[b, t, k]
  # float32 sums of a hundred.
  np.testing.assert_allclose(new.counts, counts, atol=1e-5)
  np.testing.assert_allclose(new.sums, sums, atol=1e-5)
  np.testing.assert_allclose(new.vectors, sums / counts[..., None], atol=1e-5)


def test_a_dead_code_becomes_a_residual_of_the_batch_and_a_living_one_stays():
  config = QuantizerConfig(levels=2, codes=4, dimension=4, decay=0.9, dead_below=0.5, level_dropout=0.0)
  books, points = random_books(config, uses=5.0), latents(8)
  far = books.vectors.at[:, 2].set(100.0)  # nothing is near it
  books = Codebooks(far, books.counts.at[:, 2].set(0.2), far * 5.0)
  _, _, codes, residuals = quantize(config, books, jnp.asarray(points))
  new, _ = update(config, books, codes, residuals, jax.random.key(0))
  for k in range(2):
    seen = np.asarray(residuals)[:, :, k].reshape(-1, 4)
    distance = np.abs(seen[:, None] - np.asarray(new.vectors[k])[None]).max(-1).min(0)
    assert distance[2] == 0
    assert (distance[[0, 1, 3]] > 0).all()
    # An average share of the batch's 56 frames.
    assert new.counts[k, 2] == 14
    # Its moving average is consistent: a step without uses would leave it where it is.
    np.testing.assert_allclose(new.sums[k, 2] / new.counts[k, 2], new.vectors[k, 2], rtol=1e-6)


def test_updates_lead_the_books_to_the_means_of_clusters():
  config = QuantizerConfig(levels=1, codes=2, dimension=4, decay=0.8, dead_below=0.0)
  rng = np.random.default_rng(0)
  points = np.concatenate([rng.normal(2, 0.1, (1, 50, 4)), rng.normal(-2, 0.1, (1, 50, 4))], 1).astype(
    np.float32
  )
  start = jnp.asarray([[[0.5] * 4, [-0.5] * 4]])
  books = Codebooks(start, jnp.full((1, 2), 10.0), start * 10.0)
  for _ in range(40):
    _, _, codes, residuals = quantize(config, books, points)
    books, _ = update(config, books, codes, residuals, jax.random.key(0))
  means = [points[0, :50].mean(0), points[0, 50:].mean(0)]
  # The start's share has decayed to 0.8^40 = 1.3e-4 of its distance of 1.5.
  np.testing.assert_allclose(books.vectors[0], means, atol=1e-3)


def test_usage_and_perplexity_have_their_closed_forms():
  codes = np.stack([np.arange(16) % 16, np.arange(16) % 4, np.zeros(16, int), np.arange(16) // 12], 1)
  share, perplexity = quantizer.usage(jnp.asarray(codes).reshape(2, 8, 4), 32)
  np.testing.assert_allclose(share, [16 / 32, 4 / 32, 1 / 32, 2 / 32])
  skewed = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
  np.testing.assert_allclose(perplexity, [16, 4, 1, skewed], rtol=1e-5)  # float32 exp and log
