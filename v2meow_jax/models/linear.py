"""A matrix product with weights, in the form that each machine multiplies fastest."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from v2meow_jax import linen, partitioning

FEW_ROWS = 16  # up to so many a product is bound by reading the weights


class Linear(nn.Module):
  """Matrix product without bias; the kernel is [in, out] with logical axes `axes`.

  Attributes:
    features: of the output.
    axes: logical axes of input and output.
    scale: of the initial variance.
    transposed: the kernel is [out, in] instead; see `product`.
  """

  features: int
  axes: tuple[str | None, str | None]
  scale: float = 1.0
  transposed: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, '*b i']) -> Float[Array, '*b features']:
    shape, axes, place = (x.shape[-1], self.features), self.axes, (-2, -1)
    if self.transposed:
      shape, axes, place = shape[::-1], axes[::-1], (-1, -2)
    init = nn.initializers.variance_scaling(self.scale, 'fan_in', 'truncated_normal', *place)
    kernel = linen.parameter(self, 'kernel', init, axes, shape).astype(x.dtype)
    return product(x, kernel) if self.transposed else x @ kernel


def product(x: Float[Array, '*b i'], kernel: Float[Array, 'o i']) -> Float[Array, '*b o']:
  """`x @ kernel.T`.

  XLA's CPU backend reads the weights of few rows at memory speed only in these forms: one float32 row as a
  vector; several as columns of a right-hand side, from which it must be kept from turning the product around;
  bfloat16 with a float32 result and at least two rows.
  """
  rows = x.reshape(-1, x.shape[-1])
  count, contract = len(rows), (((1,), (1,)), ((), ()))
  if x.dtype == jnp.float32 and 1 < count <= FEW_ROWS and partitioning.platform() == 'cpu':
    columns = jax.lax.optimization_barrier(rows.T)
    made = jax.lax.optimization_barrier(jax.lax.dot_general(kernel, columns, (((1,), (0,)), ((), ())))).T
  else:
    if x.dtype == jnp.bfloat16 and count == 1:
      rows = jnp.pad(rows, ((0, 1), (0, 0)))
    kind = jnp.promote_types(x.dtype, jnp.float32)
    made = jax.lax.dot_general(rows, kernel, contract, preferred_element_type=kind)[:count]
  return made.astype(x.dtype).reshape(*x.shape[:-1], -1)
