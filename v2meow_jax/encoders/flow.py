"""Optical flow: TV-L1 in JAX for accelerators, DIS of OpenCV for CPUs.

TV-L1 minimises lambda |I1(x + u) - I0(x)| + |grad u| by the duality scheme of Zach, Pock and Bischof 2007,
from coarse to fine, with the parameters of Sanchez, Meinhardt-Llopis and Facciolo 2013 and a median between
warps. DIS (Kroeger et al. 2016) is much faster on a CPU and less exact; docs/encoders.md has the figures.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from v2meow_jax import errors

METHODS = ('tvl1', 'dis')
LEAST = 16  # pixels of the short side that a coarser level must have
PAIRS = 16  # of pictures that are computed at once


@dataclasses.dataclass(frozen=True)
class TvL1:
  """Parameters, by the names of OpenCV's.

  Attributes:
    tau: step of the dual variable.
    lambda_: weight of the data term, for intensities of 0 to 255.
    theta: coupling of the two parts of the energy.
    scales: levels of the pyramid at most.
    step: size of a level relative to the next finer one.
    warps: linearisations a level.
    iterations: of the duality scheme a warp.
  """

  tau: float = 0.25
  lambda_: float = 0.15
  theta: float = 0.3
  scales: int = 5
  step: float = 0.5
  warps: int = 5
  iterations: int = 30


def grey(pictures: UInt8[np.ndarray, '*n 3']) -> UInt8[np.ndarray, '*n']:
  """Luma, rounded, as OpenCV has it."""
  weighted = pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
  return np.round(weighted).astype(np.uint8)


@functools.partial(jax.jit, static_argnames='config')
def tvl1(first: Array, second: Array, config: TvL1 = TvL1()) -> Float[Array, 'pairs height width 2']:
  """Flow in pixels, (right, down), from each first picture to its second.

  Args:
    first, second: [pairs, height, width] grey, 0 to 255.
    config: parameters.
  """
  return jax.vmap(functools.partial(_pair, config))(first.astype(jnp.float32), second.astype(jnp.float32))


def _pair(config: TvL1, first: Array, second: Array) -> Array:
  height, width = first.shape
  sizes = [(height, width)]
  while len(sizes) < config.scales and min(sizes[-1]) * config.step >= LEAST:
    scale = config.step ** len(sizes)
    sizes.append((round(height * scale), round(width * scale)))
  flow = jnp.zeros((2, *sizes[-1]))
  for size in reversed(sizes):
    coarse = flow.shape[1:]
    ratio = jnp.array([size[1] / coarse[1], size[0] / coarse[0]])[:, None, None]
    flow = jax.image.resize(flow, (2, *size), 'linear') * ratio
    # `resize` smooths as much as it makes smaller, so that nothing folds over.
    small, moved = (jax.image.resize(image, size, 'linear') for image in (first, second))
    flow = _level(config, small, moved, flow)
  return jnp.moveaxis(flow, 0, -1)


def _level(config: TvL1, first: Array, second: Array, flow: Array) -> Array:
  slopes = jnp.stack([_central(second, 1), _central(second, 0)])
  threshold = config.lambda_ * config.theta

  def warp(flow, _):
    moved, slope = _moved(second, flow), jax.vmap(_moved, (0, None))(slopes, flow)
    squared = (slope**2).sum(0) + 1e-9
    constant = moved - (slope * flow).sum(0) - first

    def iterate(carry, _):
      flow, dual = carry
      residual = constant + (slope * flow).sum(0)
      step = jnp.clip(-residual / squared, -threshold, threshold)
      flow = flow + step * slope + config.theta * _divergence(dual)
      ahead = jnp.stack([_forward(flow, 2), _forward(flow, 1)], 1)
      size = jnp.sqrt((ahead**2).sum(1, keepdims=True))
      rate = config.tau / config.theta
      return (flow, (dual + rate * ahead) / (1 + rate * size)), None

    dual = jnp.zeros((2, *flow.shape))
    (flow, _), _ = jax.lax.scan(iterate, (flow, dual), length=config.iterations)
    return jax.vmap(_median)(flow), None

  return jax.lax.scan(warp, flow, length=config.warps)[0]


def _moved(image: Array, flow: Array) -> Array:
  """The image at x + flow, bilinear; the edge beyond it."""
  rows, columns = jnp.meshgrid(*(jnp.arange(n) for n in image.shape), indexing='ij')
  return jax.scipy.ndimage.map_coordinates(image, [rows + flow[1], columns + flow[0]], 1, 'nearest')


def _shifted(x: Array, axis: int, by: int) -> Array:
  """x at i + by along an axis, the edge beyond it."""
  index = jnp.clip(jnp.arange(x.shape[axis]) + by, 0, x.shape[axis] - 1)
  return jnp.take(x, index, axis)


def _central(x: Array, axis: int) -> Array:
  return (_shifted(x, axis, 1) - _shifted(x, axis, -1)) / 2


def _forward(x: Array, axis: int) -> Array:
  """x[i + 1] - x[i]; 0 at the end."""
  return _shifted(x, axis, 1) - x


def _divergence(dual: Array) -> Array:
  """Minus the adjoint of `_forward`: dual is [2 components, 2 directions, height, width]."""

  def backward(x, axis):
    # The last of a line has no difference ahead.
    inner = jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis)
    edge = [(1, 0) if n == axis else (0, 0) for n in range(x.ndim)]
    return jnp.pad(inner, [pair[::-1] for pair in edge]) - jnp.pad(inner, edge)

  return backward(dual[:, 0], 2) + backward(dual[:, 1], 1)


def _median(x: Array) -> Array:
  """Median of 3 x 3, by the exchanges of Paeth 1990: no sorting."""
  rows = [_shifted(x, 0, by) for by in (-1, 0, 1)]
  p = [_shifted(row, 1, by) for row in rows for by in (-1, 0, 1)]
  for a, b in (
    (1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3), (5, 8), (4, 7), (3, 6),
    (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2),
  ):  # fmt: skip
    p[a], p[b] = jnp.minimum(p[a], p[b]), jnp.maximum(p[a], p[b])
  return p[4]


def dis(
  first: UInt8[np.ndarray, 'pairs height width'], second: UInt8[np.ndarray, 'pairs height width']
) -> Float[np.ndarray, 'pairs height width 2']:
  """The same by OpenCV's DIS with its preset "medium".

  Raises:
    errors.ConfigError: OpenCV is not installed.
  """
  maker: Any = opencv().DISOpticalFlow_create(1)
  return np.stack([maker.calc(a, b, None) for a, b in zip(first, second, strict=True)])


def opencv() -> Any:
  """The library; raises `errors.ConfigError` where it is not installed."""
  try:
    import cv2  # type: ignore[import-not-found] (of the extra "flow")
  except ImportError as error:
    raise errors.ConfigError(
      'optical flow by DIS needs OpenCV; install v2meow-jax with the extra "flow", or choose method "tvl1"'
    ) from error
  return cv2


def of_pictures(pictures: Iterable[np.ndarray], method: str) -> Iterator[Float[np.ndarray, 'height width 2']]:
  """Flow from each picture to the next, one fewer than pictures; of a single picture: none at all, once.

  Args:
    pictures: uint8 [height, width, 3].
    method: of `METHODS`.
  """
  held: list[np.ndarray] = []
  made = False
  for picture in pictures:
    held.append(grey(picture))
    if len(held) == PAIRS + 1:
      yield from _of_grey(held, method)
      made, held = True, held[-1:]
  if len(held) > 1:
    yield from _of_grey(held, method)
  elif held and not made:
    yield np.zeros((*held[0].shape, 2), np.float32)


def _of_grey(held: list[np.ndarray], method: str) -> np.ndarray:
  count = len(held) - 1
  if method == 'dis':
    return dis(np.stack(held[:-1]), np.stack(held[1:]))
  # As many pairs as ever, so that one program serves all.
  held = held + held[-1:] * (PAIRS - count)
  return np.asarray(tvl1(np.stack(held[:-1]), np.stack(held[1:])))[:count]
