import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax.models import layout, linear


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('shape', [(1, 1), (1, 5), (3, 1), (8, 2), (5, 7)])
def test_a_product_is_that_of_the_transpose_whatever_its_form(shape, dtype):
  rng = np.random.default_rng(0)
  x, kernel = rng.standard_normal((*shape, 24)), rng.standard_normal((16, 24))
  found = jax.jit(linear.product)(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
  assert found.shape == (*shape, 16) and found.dtype == dtype
  # Sums of 24 products; bfloat16 keeps 8 bits of its input and result.
  bound = 1e-5 if dtype == 'float32' else 0.15
  np.testing.assert_allclose(np.asarray(found, np.float64), x @ kernel.T, atol=bound)


def test_kernels_of_layers_are_turned_and_nothing_else():
  tree = {
    'transformer': {'layer_0': {'up': {'kernel': np.ones((2, 3))}, 'norm': {'scale': np.ones(2)}}},
    'condition_x': {'projection': {'kernel': np.ones((4, 2))}},
    'head': np.ones((1, 2, 5)),
  }
  turned = layout.transpose_kernels(tree)
  assert turned['transformer']['layer_0']['up']['kernel'].shape == (3, 2)
  assert turned['condition_x']['projection']['kernel'].shape == (4, 2)
  back = layout.transpose_kernels(turned)
  assert jax.tree.map(np.shape, back) == jax.tree.map(np.shape, tree)
