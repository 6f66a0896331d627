"""Products in the forms that machines multiply fastest: what networks do for the sake of XLA's CPU backend.

There a product reads weights at memory speed only where it is written as one of a few shapes, and bfloat16 is
fast only with a float32 result. What each function computes is said in its first line.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from v2meow_jax import partitioning

Made = TypeVar('Made')

FEW_ROWS = 16  # up to so many a product is bound by reading the weights


def wide(dtype: Any) -> Any:
  """What sums are kept in: float32 or wider."""
  return jnp.promote_types(dtype, jnp.float32)


def product(x: Float[Array, '*b i'], kernel: Float[Array, 'o i'], dtype: Any = None) -> Float[Array, '*b o']:
  """`x @ kernel.T`, in `dtype`, by default that of `x`.

  Of few rows: one float32 row as a vector; several as columns of a right-hand side, from which XLA must be
  kept from turning the product around; bfloat16 with at least two rows.
  """
  rows = x.reshape(-1, x.shape[-1])
  count, contract = len(rows), (((1,), (1,)), ((), ()))
  if x.dtype == jnp.float32 and 1 < count <= FEW_ROWS and partitioning.platform() == 'cpu':
    columns = jax.lax.optimization_barrier(rows.T)
    made = jax.lax.optimization_barrier(jax.lax.dot_general(kernel, columns, (((1,), (0,)), ((), ())))).T
  else:
    rows = _two(rows, 0)
    made = jax.lax.dot_general(rows, kernel, contract, preferred_element_type=wide(x.dtype))[:count]
  return made.astype(dtype or x.dtype).reshape(*x.shape[:-1], -1)


def matmul(x: Float[Array, '*b i'], kernel: Float[Array, 'i o']) -> Float[Array, '*b o']:
  """`x @ kernel` of many rows.

  As matrices, of which the gradient by the kernel is one product too; of bfloat16, as in that gradient, with
  float32 results. (What is computed again for a gradient then has those of bfloat16 in it.)
  """
  if partitioning.platform() != 'cpu':
    return x @ kernel
  rows = x.reshape(-1, x.shape[-1])
  made = _of_bfloat16(rows, kernel).astype(x.dtype) if x.dtype == jnp.bfloat16 else rows @ kernel
  return made.reshape(*x.shape[:-1], -1)


def by_level(x: Float[Array, 'k n i'], kernels: Array, transposed: bool = False) -> Float[Array, 'k n o']:
  """`x[k] @ kernels[k]` for every k, in float32 or wider; kernels are [k, o, i] if `transposed`."""
  kernels = kernels.astype(x.dtype)
  if transposed:
    return _sums(_two(x, 1), kernels, (1, 1))[:, : x.shape[1]]
  if x.dtype == jnp.bfloat16 and partitioning.platform() == 'cpu':
    return _of_bfloat16(_two(x, 1), kernels)[:, : x.shape[1]]
  return _sums(x, kernels, (1, 0))


def _sums(x: Array, y: Array, axes: tuple[int, int]) -> Array:
  """Products, in float32 or wider, over one axis each of the last two; those before them go together."""
  together = tuple(range(x.ndim - 2))
  over = (len(together) + axes[0],), (len(together) + axes[1],)
  return jax.lax.dot_general(x, y, (over, (together, together)), preferred_element_type=wide(x.dtype))


@jax.custom_vjp
def _of_bfloat16(x: Float[Array, '*k n i'], kernel: Float[Array, '*k i o']) -> Float[Array, '*k n o']:
  """`x @ kernel` in float32; the products of its gradient are of bfloat16 too."""
  return _sums(x, kernel, (1, 0))


def _of_gradient(kept, grad):
  x, kernel = kept
  grad = grad.astype(x.dtype)
  return _sums(grad, kernel, (1, 1)).astype(x.dtype), _over_rows(x, grad).astype(x.dtype)


def _over_rows(x: Float[Array, '*k n i'], grad: Float[Array, '*k n o']) -> Float[Array, '*k i o']:
  """`x.T @ grad` in float32.

  XLA multiplies bfloat16 fast only where the left side's last axis is summed over, and makes float32 of all
  else: the smaller of the two is turned first.
  """
  if x.ndim > 2:
    return _sums(x, grad, (0, 0))
  if x.shape[1] <= grad.shape[1]:
    return _sums(_turned(x), grad, (1, 0))
  # Or else the product itself would be turned around again.
  return jax.lax.optimization_barrier(_sums(_turned(grad), x, (1, 0))).T


def _turned(x: Float[Array, 'n i']) -> Float[Array, 'i n']:
  """`x.T`, written out: a transpose alone is taken for another way of reading, whatever stands behind it."""
  return written(jnp.transpose, x)


def written(make: Callable[[Array], Made], x: Array) -> Made:
  """`make(x)`, one array or several; on CPUs computed once and held in memory, where XLA would let each who
  reads it compute it again.

  Barriers are taken away before that is decided. The result of a loop whose rounds are not known
  before it runs (it is one, or of what begins with NaN two) is what it is.
  """
  return _written(make, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _written(make: Callable[[Array], Any], x: Array) -> Any:
  if partitioning.platform() != 'cpu':
    return make(x)
  first = x[(0,) * x.ndim]
  rounds = 1 + (first != first).astype(jnp.int32)
  start = jax.tree.map(lambda made: jnp.zeros(made.shape, made.dtype), jax.eval_shape(make, x))
  state = jax.lax.while_loop(
    lambda state: state[0] < rounds, lambda state: (state[0] + 1, make(x)), (jnp.int32(0), start)
  )
  return state[1]


# A loop has no gradient in reverse; what it makes has.
_written.defvjp(lambda make, x: (_written(make, x), x), lambda make, x, grad: jax.vjp(make, x)[1](grad))
_of_bfloat16.defvjp(lambda x, kernel: (_of_bfloat16(x, kernel), (x, kernel)), _of_gradient)


def _two(x: Array, axis: int) -> Array:
  """A single row of bfloat16 becomes two: as a vector it falls into a slow form."""
  if x.dtype != jnp.bfloat16 or x.shape[axis] != 1:
    return x
  return jnp.pad(x, [(0, int(at == axis)) for at in range(x.ndim)])


def scores_of_one(query: Float[Array, '*b 1 d'], keys: Float[Array, '*b n d']) -> Float[Array, '*b n']:
  """The query's products with all keys, in float32 or wider.

  The query is a vector: as a matrix of one row it is slower.
  """
  vector = query.reshape(*keys.shape[:-2], -1).astype(keys.dtype)
  return jnp.einsum('...d,...nd->...n', vector, keys, preferred_element_type=wide(query.dtype))


def mean_of_many(weights: Float[Array, '*b n'], values: Float[Array, '*b n d']) -> Float[Array, '*b d']:
  """The values' sum by weights, in float32 or wider."""
  kind = wide(values.dtype)
  return jnp.einsum('...n,...nd->...d', weights.astype(values.dtype), values, preferred_element_type=kind)


def kept(x: Array) -> Array:
  """Keys or values as a cache holds them: on CPUs in float32, whose vectors are multiplied much faster."""
  return x.astype(wide(x.dtype)) if partitioning.platform() == 'cpu' else x
