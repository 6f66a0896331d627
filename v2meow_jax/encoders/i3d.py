"""`video/i3d` and `video/flow`: Inflated 3D ConvNet features (Carreira and Zisserman 2017), RGB or flow.

Weights are a safetensors file with the names of DeepMind's checkpoints (`Flow/inception_i3d/Mixed_3b/...`),
made by `tools/import_i3d.py`. The paper's recipe: 25 pictures a second, short side 256, the middle 224; flow
of TV-L1 cut at 20 pixels and scaled to +-1.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors
from v2meow_jax.encoders import driver, flow, weights
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry, Option
from v2meow_jax.encoders.network import Apply, Network, Pictures
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

EPSILON = 1e-3  # of Sonnet's batch norm
FLOW_BOUND = 20.0  # pixels
# Channels of each block's branches: 1x1; 1x1 and 3x3; 1x1 and 3x3; pooled and 1x1.
MIXED = {
  '3b': (64, 96, 128, 16, 32, 32), '3c': (128, 128, 192, 32, 96, 64),
  '4b': (192, 96, 208, 16, 48, 64), '4c': (160, 112, 224, 24, 64, 64), '4d': (128, 128, 256, 24, 64, 64),
  '4e': (112, 144, 288, 32, 64, 64), '4f': (256, 160, 320, 32, 128, 128),
  '5b': (256, 160, 320, 32, 128, 128), '5c': (384, 192, 384, 48, 128, 128),
}  # fmt: skip


class Unit(nn.Module):
  """Convolution and ReLU; the checkpoint's batch norm is part of kernel and bias."""

  features: int
  size: int = 1
  stride: int = 1

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return nn.relu(nn.Conv(self.features, (self.size,) * 3, self.stride, name='conv_3d')(x))


class Mixed(nn.Module):
  """An Inception block."""

  channels: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    one, two, three, four, five, six = self.channels
    unit = lambda branch, place, count, size, y: Unit(  # noqa: E731
      count, size, name=f'Branch_{branch}_Conv3d_0{place}_{size}x{size}'
    )(y)
    pooled = nn.max_pool(x, (3, 3, 3), (1, 1, 1), 'SAME')
    return jnp.concatenate(
      [
        unit(0, 'a', one, 1, x),
        unit(1, 'b', three, 3, unit(1, 'a', two, 1, x)),
        unit(2, 'b', five, 3, unit(2, 'a', four, 1, x)),
        unit(3, 'b', six, 1, pooled),
      ],
      -1,
    )


class I3d(nn.Module):
  """The network up to its pooled features, and the classes that they speak for.

  Attributes:
    classes: of its training.
    shrink: what all channels are divided by; 1 as published.
  """

  classes: int = 400
  shrink: int = 1

  @nn.compact
  def __call__(self, x: Float[Array, 'batch time height width channels']) -> tuple[Array, Array]:
    pool = lambda x, time, side: nn.max_pool(x, (time, side, side), (min(time, 2), 2, 2), 'SAME')  # noqa: E731
    count = lambda channels: channels // self.shrink  # noqa: E731
    x = pool(Unit(count(64), 7, 2, name='Conv3d_1a_7x7')(x), 1, 3)
    x = Unit(count(64), name='Conv3d_2b_1x1')(x)
    x = pool(Unit(count(192), 3, name='Conv3d_2c_3x3')(x), 1, 3)
    for name, channels in MIXED.items():
      if name in ('4b', '5b'):
        x = pool(x, 3, 3) if name == '4b' else pool(x, 2, 2)
      x = Mixed(tuple(map(count, channels)), name=f'Mixed_{name}')(x)
    x = x.mean((2, 3))
    # Average pooling over two steps, then the mean: what lies at the ends counts half.
    pairs = (x[:, 1:] + x[:, :-1]) / 2 if x.shape[1] > 1 else x
    features = pairs.mean(1)
    return features, nn.Dense(self.classes, name='Logits')(features)


def converted(arrays: Mapping[str, np.ndarray]) -> tuple[I3d, int, dict]:
  """(network, channels of its input, parameters) of a checkpoint by DeepMind's names.

  Raises:
    errors.ConfigError: an array is missing or of another shape.
  """
  arrays = {re.sub(r'^(RGB|Flow)/inception_i3d/', '', name): value for name, value in arrays.items()}
  # DeepMind's checkpoints have a slip of the pen in one name.
  odd = 'Mixed_5b/Branch_2/Conv3d_0a_3x3'
  arrays = {name.replace(odd, odd.replace('0a', '0b')): value for name, value in arrays.items()}

  def take(name: str) -> np.ndarray:
    if name not in arrays:
      raise errors.ConfigError(f'the weights hold no {name}; they are incomplete, or not those of an I3D')
    return np.asarray(arrays[name], np.float32)

  stem, logits = take('Conv3d_1a_7x7/conv_3d/w'), take('Logits/Conv3d_0c_1x1/conv_3d/w')
  network = I3d(logits.shape[-1], max(1, 64 // stem.shape[-1]))
  example = jax.ShapeDtypeStruct((1, 8, 32, 32, stem.shape[3]), jnp.float32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), example)['params']
  params = {}
  flat: dict[str, Any] = dict(traverse_util.flatten_dict(shapes, sep='/'))  # type: ignore[arg-type] (joined)
  for path, leaf in flat.items():
    unit, _, kind = path.rpartition('/')
    if unit == 'Logits':
      name = f'Logits/Conv3d_0c_1x1/conv_3d/{"w" if kind == "kernel" else "b"}'
      params[path] = take(name).reshape(leaf.shape) if take(name).size == leaf.size else take(name)
    else:
      name = re.sub(r'Branch_(\d)_', r'Branch_\1/', unit.removesuffix('/conv_3d'))
      beta, mean, variance = (
        take(f'{name}/batch_norm/{part}').reshape(-1) for part in ('beta', 'moving_mean', 'moving_variance')
      )
      scale = 1 / np.sqrt(variance + EPSILON)
      params[path] = take(f'{name}/conv_3d/w') * scale if kind == 'kernel' else beta - mean * scale
    if params[path].shape != leaf.shape:
      raise errors.ConfigError(f'the weights have {params[path].shape} for {path}, an I3D {leaf.shape}')
  return network, stem.shape[3], traverse_util.unflatten_dict(params, sep='/')


class _I3d(Network):
  """What both have in common."""

  weights: str
  rate: Fraction
  pictures: Fraction
  seen: int
  side: int
  crop: int
  stream_name: str
  channels: ClassVar[int]

  def __post_init__(self):
    for name in ('rate', 'pictures'):
      object.__setattr__(self, name, Fraction(getattr(self, name)))
    if not 0 < self.crop <= self.side:
      raise errors.ConfigError(f'{self.name}: a crop of {self.crop} is not within pictures of {self.side}')

  @property
  def reads(self) -> Pictures:
    """Squares of `side` pixels."""
    return Pictures(self.pictures, (self.side, self.side))

  @property
  def stream(self) -> Stream:
    """As wide as the last block."""
    return Stream(self.stream_name, 'embedding', self.rate, _width(self.weights))

  @property
  def window(self) -> int:
    """`seen`."""
    return self.seen

  def load(self) -> tuple[Any, Apply]:
    """See `Network.load`."""
    network, channels, params = converted(weights.read(self.weights))
    if channels != self.channels:
      raise errors.ConfigError(
        f'{self.weights}: an I3D of {channels} channels, where {self.name} takes {self.channels}; RGB has 3, '
        'flow 2'
      )
    return params, functools.partial(self._apply, network)

  def _apply(self, network: I3d, params: Any, batch: Array) -> Float[Array, 'batch 1 width']:
    dtype = jax.tree.leaves(params)[0].dtype
    first = (self.side - self.crop) // 2
    batch = batch[:, :, first : first + self.crop, first : first + self.crop]
    features, _ = network.apply({'params': params}, self.scaled(batch).astype(dtype))  # type: ignore[misc]
    return features[:, None].astype(jnp.float32)

  def scaled(self, batch: Array) -> Array:
    """Units in the range of -1 to 1."""
    raise NotImplementedError


@functools.lru_cache(maxsize=8)
def _width(place: str) -> int:
  arrays = weights.read(place)
  logits = [value for name, value in arrays.items() if name.endswith('Logits/Conv3d_0c_1x1/conv_3d/w')]
  if not logits:
    raise errors.ConfigError(f'{place}: not the weights of an I3D; see tools/import_i3d.py')
  return logits[0].shape[-2]


@gin.register
@dataclasses.dataclass(frozen=True)
class I3dNetwork(_I3d):
  """I3D of RGB pictures.

  Attributes:
    weights: safetensors file of `tools/import_i3d.py`.
    rate: elements a second, in Hz.
    pictures: a second that are read, in Hz.
    seen: pictures a window; 64 as in training.
    side: pixels that the short side is scaled to.
    crop: pixels of the middle that are seen.
    stream_name: of what comes out.
  """

  weights: str
  rate: Fraction = Fraction(1)
  pictures: Fraction = Fraction(25)
  seen: int = 64
  side: int = 256
  crop: int = 224
  stream_name: str = 'video/i3d'

  name: ClassVar[str] = 'i3d'
  channels: ClassVar[int] = 3

  def scaled(self, batch: Array) -> Array:
    """Pictures, from 0 to 255."""
    return batch.astype(jnp.float32) * (2 / 255) - 1


@gin.register
@dataclasses.dataclass(frozen=True)
class FlowNetwork(_I3d):
  """I3D of optical flow.

  Attributes:
    weights: safetensors file of `tools/import_i3d.py`.
    rate: elements a second, in Hz.
    pictures: a second that are read, in Hz.
    seen: flows a window; 64 as in training.
    side: pixels that the short side is scaled to.
    crop: pixels of the middle that are seen.
    method: of the flow: `tvl1` (JAX, as in training) or `dis` (OpenCV, fast on CPUs).
    stream_name: of what comes out.
  """

  weights: str
  rate: Fraction = Fraction(1)
  pictures: Fraction = Fraction(25)
  seen: int = 64
  side: int = 256
  crop: int = 224
  method: str = 'tvl1'
  stream_name: str = 'video/flow'

  name: ClassVar[str] = 'flow'
  extra: ClassVar[str] = 'flow'
  channels: ClassVar[int] = 2

  def __post_init__(self):
    super().__post_init__()
    if self.method not in flow.METHODS:
      raise errors.ConfigError(f'flow: method {self.method!r} is not one of {", ".join(flow.METHODS)}')

  def load(self) -> tuple[Any, Apply]:
    """See `Network.load`."""
    if self.method == 'dis':
      flow.opencv()
    return super().load()

  def units(self, clip: MediaClip) -> Iterable[np.ndarray]:
    """Flow fields [side, side, 2], in pixels."""
    return flow.of_pictures(self.reads.of(clip), self.method)

  def scaled(self, batch: Array) -> Array:
    """Flow, in pixels."""
    return jnp.clip(batch, -FLOW_BOUND, FLOW_BOUND) / FLOW_BOUND


def _entry(kind: type, name: str, stream: str, what: str) -> Entry:
  return Entry(
    name,
    stream,
    settings=kind,
    make=lambda given: driver.NetworkEncoder(configured(kind, weights=given.options[name])),
    rebuild=lambda identity, sources: driver.rebuilt(kind, identity, sources.place(identity)),
    options=(Option(name, f"tools/import_i3d.py's file of {what}, for {stream}"),),
    needs=(name,),
    wanted=f"--{name}, tools/import_i3d.py's file of {what}",
    pretrained=True,
    essence=driver.essence,
  )


RGB = _entry(I3dNetwork, 'i3d', 'video/i3d', 'RGB')
FLOW = _entry(FlowNetwork, 'flow', 'video/flow', 'flow')
