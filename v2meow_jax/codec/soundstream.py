"""SoundStream's encoder and decoder: causal convolutions on the waveform (Zeghidour et al. 2021)."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors
from v2meow_jax.codec import reach
from v2meow_jax.codec.parts import Part


@gin.register
@dataclasses.dataclass(frozen=True)
class SoundStreamConfig:
  """Settings of the network.

  Attributes:
    strides: of the encoder's blocks; their product is the hop in samples.
    channels: C of the paper; block i has C x 2^(i + 1).
    dilations: of a block's residual units.
  """

  strides: tuple[int, ...] = (3, 4, 5, 8)
  channels: int = 32
  dilations: tuple[int, ...] = (1, 3, 9)

  whole_frames: ClassVar[bool] = True  # of audio that it takes

  def __post_init__(self):
    object.__setattr__(self, 'strides', tuple(self.strides))
    object.__setattr__(self, 'dilations', tuple(self.dilations))
    if self.channels < 1 or not self.strides or min((*self.strides, *self.dilations)) < 1:
      raise errors.ConfigError('SoundStream: channels, strides and dilations must be positive')

  @property
  def hop(self) -> int:
    """Samples a frame."""
    return math.prod(self.strides)

  def build(self, audio_channels: int, dimension: int, sample_rate: int) -> 'SoundStreamNetwork':
    """The network between `audio_channels` and latents of `dimension`."""
    del sample_rate  # the same network at every one
    return SoundStreamNetwork(self, audio_channels, dimension)

  def parts(self, direction: str) -> tuple[Part, ...]:
    """Of the encoder or the decoder; see `parts`."""
    conv = lambda kernel, dilation=1: reach.Conv(kernel, (kernel - 1) * dilation, 1, dilation)  # noqa: E731
    unit = [conv(7, dilation) for dilation in self.dilations]
    if direction == 'encode':
      layers: list = [conv(7)]
      for stride in self.strides:
        layers += [*unit, reach.Conv(2 * stride, stride, stride)]
      layers.append(conv(3))
      return (Part('encode', *reach.reach(layers, 1, self.hop), self.hop, 1),)
    layers = [conv(7)]
    for stride in reversed(self.strides):
      layers += [reach.Up(2 * stride, 0, stride), *unit]
    layers.append(conv(7))
    return (Part('decode', *reach.reach(layers, self.hop, 1), 1, self.hop),)


class CausalConv(nn.Module):
  """Convolution that sees no later sample: [batch, time, in] -> [batch, time / stride, features]."""

  features: int
  kernel: int
  stride: int = 1
  dilation: int = 1

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b u features']:
    pad = (self.kernel - 1) * self.dilation - (self.stride - 1)
    x = jnp.pad(x, ((0, 0), (pad, 0), (0, 0)))
    return nn.Conv(
      self.features,
      (self.kernel,),
      strides=self.stride,
      kernel_dilation=self.dilation,
      padding='VALID',
      name='conv',
    )(x)


class CausalConvTranspose(nn.Module):
  """Transposed convolution with kernel 2 x stride, trimmed at the end so that it is causal."""

  features: int
  stride: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b u features']:
    conv = nn.ConvTranspose(
      self.features, (2 * self.stride,), strides=(self.stride,), padding='VALID', name='conv'
    )
    return conv(x)[:, : x.shape[1] * self.stride]


class ResidualUnit(nn.Module):
  """Dilated convolution of kernel 7, then 1 x 1, each after an ELU, around a skip connection."""

  dilation: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b t c']:
    channels = x.shape[-1]
    y = CausalConv(channels, 7, dilation=self.dilation)(nn.elu(x))
    return x + CausalConv(channels, 1)(nn.elu(y))


class SoundStreamNetwork(nn.Module):
  """Encoder and decoder around the latents that the quantiser sees."""

  config: SoundStreamConfig
  audio_channels: int
  dimension: int

  def setup(self):
    config = self.config
    width = config.channels
    encoder: list = [CausalConv(width, 7)]
    for stride in config.strides:
      encoder += [ResidualUnit(d) for d in config.dilations]
      width *= 2
      encoder += [nn.elu, CausalConv(width, 2 * stride, stride=stride)]
    self.encoder = nn.Sequential([*encoder, nn.elu, CausalConv(self.dimension, 3)])
    decoder: list = [CausalConv(width, 7)]
    for stride in reversed(config.strides):
      width //= 2
      decoder += [nn.elu, CausalConvTranspose(width, stride)]
      decoder += [ResidualUnit(d) for d in config.dilations]
    self.decoder = nn.Sequential([*decoder, nn.elu, CausalConv(self.audio_channels, 7)])

  def encode(self, audio: Float[Array, 'batch samples channels']) -> Float[Array, 'batch time dimension']:
    """Latents; `samples` is a multiple of the hop."""
    return self.encoder(audio)

  def decode(self, latents: Float[Array, 'batch time dimension']) -> Float[Array, 'batch samples channels']:
    """Audio of time x hop samples."""
    return self.decoder(latents)

  def __call__(self, audio):
    return self.decode(self.encode(audio))
