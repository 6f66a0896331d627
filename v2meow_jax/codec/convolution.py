"""Convolutions over time of many channels with fewer products, where processors are bound by those.

Two neighbouring outputs of a filter come from three filters of half its taps instead of four (the transposed
fast FIR algorithm of two phases; Mou and Duhamel 1991, "Short-length FIR filters and their use in fast
nonrecursive filtering"), and each of the three in the same way again: of seven taps, 17 products instead of
28. Sums and differences are all that is added, so float32 rounds hardly more often than it does anyway.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from v2meow_jax import partitioning, products

HALVINGS = 2
CHANNELS = 192  # below which reading and writing what is added takes the time that products no longer do


class Conv(nn.Module):
  """Centred convolution over time: `nn.Conv` with its parameters, up to the order of float32 sums.

  Attributes:
    features: channels of the output.
    kernel: taps; odd.
    dilation: steps between them.
    fast: fewer products, where there are channels enough for them to be what takes the time.
  """

  features: int
  kernel: int
  dilation: int = 1
  fast: bool = True

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b t features']:
    shape = (self.kernel, x.shape[-1], self.features)
    taps = self.param('kernel', nn.initializers.lecun_normal(), shape).astype(x.dtype)
    bias = self.param('bias', nn.initializers.zeros, (self.features,)).astype(x.dtype)
    # Accelerators have products to spare; in bfloat16 differences of neighbours would be rounded.
    fast = self.fast and x.dtype == jnp.float32 and partitioning.platform() == 'cpu'
    return centred(x, taps, self.dilation, HALVINGS if fast and min(shape[1:]) >= CHANNELS else 0) + bias


def centred(
  x: Float[Array, 'b t c'], taps: Float[Array, 'k c o'], dilation: int, halvings: int
) -> Float[Array, 'b t o']:
  """y[t] = sum over k of x[t + (k - (K - 1) / 2) dilation] @ taps[k]; zeros lie around x.

  Raises:
    ValueError: an even number K of taps has no centre.
  """
  if len(taps) % 2 == 0:
    raise ValueError(f'a centred convolution has an odd number of taps, not {len(taps)}')
  batch, length, channels = x.shape
  rows, pad = -(-length // dilation), (len(taps) - 1) // 2 * dilation
  if not halvings:
    return _plain(x, taps, dilation, pad)
  # Held in memory: each of the filters would compute what x comes from.
  margins = (0, 0), (pad, pad + rows * dilation - length), (0, 0)
  x = products.written(lambda x: jnp.pad(x, margins), x)
  # Taps are neighbours along the second dimension.
  y = filtered(x.reshape(batch, -1, dilation, channels), taps, halvings)
  return y.reshape(batch, rows * dilation, -1)[:, :length]


def filtered(
  x: Float[Array, 'b n d c'], taps: Float[Array, 'k c o'], halvings: int
) -> Float[Array, 'b m d o']:
  """y[m] = sum over k of x[m + k] @ taps[k], for the m = n - K + 1 places where all of x is there."""
  batch, count, phases, channels = x.shape
  made = count - len(taps) + 1
  if not halvings or len(taps) < 2:
    return _plain(x.reshape(batch, -1, channels), taps, phases, 0).reshape(batch, made, phases, -1)
  # With even and odd elements e and o, and taps f and g, where * filters and e+ is e one later:
  # y[2 m] = f * e + g * o = f * (e - o) + (f + g) * o
  # y[2 m + 1] = f * o + g * e+ = g * (e+ - o) + (f + g) * o
  pairs, f, g = -(-made // 2), taps[0::2], taps[1::2]
  both = f + jnp.pad(g, ((0, len(f) - len(g)), (0, 0), (0, 0)))
  rows = pairs + len(f)
  x = jnp.pad(x, ((0, 0), (0, max(0, 2 * rows - count)), (0, 0), (0, 0)))[:, : 2 * rows]
  even, odd = jnp.moveaxis(x.reshape(batch, rows, 2, phases, channels), 2, 0)
  first, second = slice(pairs + len(f) - 1), slice(pairs + len(g) - 1)
  shared = filtered(odd[:, first], both, halvings - 1)
  evens = filtered((even - odd)[:, first], f, halvings - 1) + shared
  odds = filtered((even[:, 1:] - odd[:, :-1])[:, second], g, halvings - 1) + shared
  return jnp.stack([evens, odds], 2).reshape(batch, 2 * pairs, phases, -1)[:, :made]


def _plain(x: Float[Array, 'b t c'], taps: Float[Array, 'k c o'], dilation: int, pad: int) -> Array:
  return jax.lax.conv_general_dilated(
    x, taps, (1,), ((pad, pad),), rhs_dilation=(dilation,), dimension_numbers=('NHC', 'HIO', 'NHC')
  )
