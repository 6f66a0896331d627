"""A matrix product with learned weights."""

import flax.linen as nn
from jaxtyping import Array, Float

from v2meow_jax import linen, products


class Linear(nn.Module):
  """Matrix product without bias; the kernel is [in, out] with logical axes `axes`.

  Attributes:
    features: of the output.
    axes: logical axes of input and output.
    scale: of the initial variance.
    transposed: the kernel is [out, in] instead; see `products.product`.
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
    return products.product(x, kernel) if self.transposed else products.matmul(x, kernel)
