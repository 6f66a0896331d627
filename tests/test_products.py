import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import products
from v2meow_jax.models import layout


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('shape', [(1, 1), (1, 5), (3, 1), (8, 2), (5, 7)])
def test_a_product_is_that_of_the_transpose_whatever_its_form(shape, dtype):
  rng = np.random.default_rng(0)
  x, kernel = rng.standard_normal((*shape, 24)), rng.standard_normal((16, 24))
  found = jax.jit(products.product)(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
  assert found.shape == (*shape, 16) and found.dtype == dtype
  # Sums of 24 products; bfloat16 keeps 8 bits of its input and result.
  bound = 1e-5 if dtype == 'float32' else 0.15
  np.testing.assert_allclose(np.asarray(found, np.float64), x @ kernel.T, atol=bound)
  wide = products.product(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), jnp.float32)
  assert wide.dtype == jnp.float32
  np.testing.assert_array_equal(wide.astype(dtype), found)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('count', [1, 3])
def test_products_of_levels_and_of_one_query_are_numpys(count, dtype):
  rng = np.random.default_rng(0)
  x, kernels = rng.standard_normal((4, count, 24)), rng.standard_normal((4, 24, 16))
  keys, weights = rng.standard_normal((4, 7, 24)), rng.random((4, 7))
  bound = 1e-5 if dtype == 'float32' else 0.2
  cast = lambda *arrays: [jnp.asarray(array, dtype) for array in arrays]  # noqa: E731
  found = jax.jit(products.by_level)(*cast(x, kernels))
  assert found.dtype == jnp.float32 and found.shape == (4, count, 16)
  np.testing.assert_allclose(found, x @ kernels, atol=bound)
  turned = products.by_level(*cast(x, np.swapaxes(kernels, 1, 2)), transposed=True)
  assert turned.dtype == jnp.float32
  np.testing.assert_allclose(turned, found, atol=1e-5)
  grads = jax.jit(jax.grad(lambda *given: jnp.sum(products.by_level(*given) ** 2), (0, 1)))(*cast(x, kernels))
  expected = 2 * x @ kernels @ np.swapaxes(kernels, 1, 2), 2 * np.swapaxes(x, 1, 2) @ (x @ kernels)
  for grad, right in zip(grads, expected, strict=True):
    assert grad.dtype == dtype
    np.testing.assert_allclose(np.asarray(grad, np.float64), right, atol=40 * bound)
  scores = products.scores_of_one(*cast(x[:, :1], keys))
  np.testing.assert_allclose(scores, (keys @ x[:, 0, :, None])[..., 0], atol=bound)
  mean = products.mean_of_many(*cast(weights, keys))
  np.testing.assert_allclose(mean, np.einsum('bn,bnd->bd', weights, keys), atol=bound)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('out', [16, 24, 40])  # the narrower side is the one that is turned
def test_many_rows_by_a_kernel_and_the_gradient_are_numpys(dtype, out):
  rng = np.random.default_rng(0)
  x, kernel, weight = (rng.standard_normal(shape) for shape in ((3, 50, 24), (24, out), (3, 50, out)))
  given = [jnp.asarray(array, dtype) for array in (x, kernel)]

  def total(x, kernel):
    made = products.matmul(x, kernel)
    return jnp.sum(made.astype(jnp.float32) * weight), made

  ((_, found), gradients) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(*given)
  expected = x @ kernel, weight @ kernel.T, np.einsum('bti,bto->io', x, weight)
  for made, right in zip((found, *gradients), expected, strict=True):
    assert made.dtype == dtype and made.shape == right.shape
    # Sums of up to 150 products; bfloat16 keeps 8 bits of its input and result.
    error = np.abs(np.asarray(made, np.float64) - right).max() / np.abs(right).max()
    assert error < (1e-6 if dtype == 'float32' else 1e-2)


@pytest.mark.parametrize('sizes', [(64, 256), (256, 64), (128, 128)])
def test_gradients_in_bfloat16_go_on_in_any_way(sizes):
  """XLA decides early which products it makes in bfloat16: none may become one that it cannot."""
  rng = np.random.default_rng(0)
  x, weight = (jnp.asarray(rng.standard_normal((512, size)), jnp.bfloat16) for size in sizes)
  kernel = jnp.asarray(rng.standard_normal(sizes) / 16, jnp.bfloat16)
  several = jnp.stack([x.at[0, 0].set(jnp.nan), x])

  def loss(kernel, x):
    return jnp.sum((products.matmul(x, kernel) * weight).astype(jnp.float32))

  grad = jax.grad(loss)
  wanted = np.asarray(x, np.float64).T @ np.asarray(weight, np.float64)
  uses = {
    'alone': lambda: grad(kernel, x),
    'transposed': lambda: grad(kernel, x).T.T,
    'multiplied': lambda: jnp.eye(sizes[0], dtype=jnp.bfloat16) @ grad(kernel, x),
    'multiplied behind': lambda: (grad(kernel, x).T @ jnp.eye(sizes[0], dtype=jnp.bfloat16)).T,
    # The first of them begins with NaN.
    'in a loop': lambda: jax.lax.scan(lambda none, x: (none, grad(kernel, x)), None, several)[1][1],
    'of many': lambda: jax.vmap(grad, (None, 0))(kernel, several)[1],
    'kept little': lambda: jax.grad(jax.checkpoint(loss))(kernel, x),
  }
  for name, use in uses.items():
    found = np.asarray(jax.jit(use)(), np.float64)
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max(), name
  spoiled = grad(kernel, x.at[0, 0].set(jnp.nan))
  assert np.isnan(np.asarray(spoiled, np.float64)[0]).all()
  np.testing.assert_array_equal(spoiled[1:], grad(kernel, x)[1:])


def test_kernels_of_layers_and_the_head_are_turned_and_nothing_else():
  tree = {
    'transformer': {'layer_0': {'up': {'kernel': np.ones((2, 3))}, 'norm': {'scale': np.ones(2)}}},
    'condition_x': {'projection': {'kernel': np.ones((4, 2))}},
    'head': np.ones((1, 2, 5)),
    'embedding': np.ones((1, 5, 2)),
  }
  turned = layout.transpose_kernels(tree)
  assert turned['transformer']['layer_0']['up']['kernel'].shape == (3, 2)
  assert turned['condition_x']['projection']['kernel'].shape == (4, 2)
  assert turned['head'].shape == turned['embedding'].shape == (1, 5, 2)
  back = layout.transpose_kernels(turned)
  assert jax.tree.map(np.shape, back) == jax.tree.map(np.shape, tree)


@pytest.mark.parametrize('first', [1.0, np.nan])
def test_what_is_written_out_is_what_was_to_be_made(first):
  x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)), jnp.float32).at[0, 0].set(first)
  turned, (double, count) = jax.jit(
    lambda x: (products.written(jnp.transpose, x), products.written(lambda x: (2 * x, jnp.isnan(x).sum()), x))
  )(x)
  np.testing.assert_array_equal(turned, np.transpose(x))
  np.testing.assert_array_equal(double, 2 * x)
  assert count == np.isnan(first)


@pytest.mark.parametrize('sizes', [(5, 3, 4), (5, 4, 3)])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_products_have_second_derivatives(dtype, sizes):
  rows, inner, outer = sizes
  x, kernel, other = (
    jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)
    for seed, shape in enumerate(((rows, inner), (inner, outer), (inner, outer)))
  )

  def along(x, kernel):
    """The slope of sum((x @ kernel)^2) by the kernel, along another: sum(2 (x @ kernel) * (x @ other))."""
    square = lambda kernel: jnp.sum(products.matmul(x, kernel).astype(jnp.float32) ** 2)  # noqa: E731
    return jnp.sum(jax.grad(square)(kernel).astype(jnp.float32) * other)

  by_x, by_kernel = jax.grad(along, (0, 1))(x, kernel)
  x, kernel, other = (np.asarray(array, float) for array in (x, kernel, other))
  bound = 0.5 if dtype == 'bfloat16' else 1e-4  # of sums of up to 15 products near 10
  np.testing.assert_allclose(np.asarray(by_kernel, float), 2 * x.T @ x @ other, atol=bound)
  np.testing.assert_allclose(
    np.asarray(by_x, float), 2 * (x @ other) @ kernel.T + 2 * (x @ kernel) @ other.T, atol=bound
  )
