"""Layers that published codecs share: convolutions in [batch, time, channels], Snake, and the LSTM."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Upsample(nn.Module):
  """Transposed convolution with kernel 2 x stride; `trim` outputs are cut at the start, `end` at the end.

  As an ordinary convolution over pairs of neighbours whose outputs are the `stride` phases: nothing is
  multiplied by the zeros between inputs. Kernel: [2, in, stride x out].
  """

  features: int
  stride: int
  trim: int
  end: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b u features']:
    phases = nn.Conv(self.stride * self.features, (2,), padding=((1, 1),), use_bias=False, name='conv')(x)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    y = phases.reshape(x.shape[0], (x.shape[1] + 1) * self.stride, self.features)
    return y[:, self.trim : y.shape[1] - self.end] + bias


# sin(pi r)^2 / r^2 as a polynomial in r^2 for |r| <= 1/2: a Chebyshev fit in float64, off by less than 1e-7.
_Z = np.linspace(0, 0.25, 2001)[1:]
_SINE = np.polynomial.Chebyshev.fit(_Z, np.sin(np.pi * np.sqrt(_Z)) ** 2 / _Z, 5).convert(
  kind=np.polynomial.Polynomial
)


def squared_sine(x: Array) -> Array:
  """sin(x)^2; a period is pi, so one rounding reduces the argument. Several times as fast as XLA's sine."""
  turns = x * (1 / np.pi)
  z = jnp.square(turns - jnp.round(turns))
  total = jnp.full_like(z, _SINE.coef[-1])
  for coefficient in reversed(_SINE.coef[:-1]):
    total = total * z + float(coefficient)
  return total * z


class Snake(nn.Module):
  """x + sin(alpha x)^2 / alpha, alpha a channel (Liu et al. 2020)."""

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b t c']:
    alpha = self.param('alpha', nn.initializers.ones, (x.shape[-1],))
    return x + squared_sine(alpha * x) / (alpha + 1e-9)


Carry = tuple[Array, Array]  # hidden state and cell, [layers, batch, width]


class Lstm(nn.Module):
  """Layers of LSTM over time around a skip connection.

  Gates are in PyTorch's order (input, forget, cell, output), so its weights can be taken as they are.
  """

  layers: int

  @nn.compact
  def __call__(
    self, x: Float[Array, 'b t d'], carry: Carry | None = None
  ) -> tuple[Float[Array, 'b t d'], Carry]:
    batch, _, width = x.shape
    y, ends = x, []
    start = jnp.zeros((2, self.layers, batch, width), x.dtype) if carry is None else carry
    for n in range(self.layers):
      inputs = nn.Dense(4 * width, name=f'input_{n}')(y)
      kernel = self.param(f'hidden_{n}', nn.initializers.orthogonal(), (width, 4 * width))

      def step(state, row, kernel=kernel):
        hidden, cell = state
        i, f, g, o = jnp.split(row + hidden @ kernel, 4, -1)
        cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
        hidden = nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

      end, rows = jax.lax.scan(step, (start[0][n], start[1][n]), jnp.swapaxes(inputs, 0, 1))
      y = jnp.swapaxes(rows, 0, 1)
      ends.append(end)
    return x + y, (jnp.stack([h for h, _ in ends]), jnp.stack([c for _, c in ends]))
