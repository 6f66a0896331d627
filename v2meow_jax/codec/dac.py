"""DAC, the Descript Audio Codec, as published (Kumar et al. 2023): centred convolutions with Snake."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors
from v2meow_jax.codec import convolution, reach
from v2meow_jax.codec.layers import Snake, Upsample
from v2meow_jax.codec.parts import Part

DILATIONS = (1, 3, 9)


@gin.register
@dataclasses.dataclass(frozen=True)
class DacConfig:
  """Settings of the network; the defaults are the 44.1 kHz model's.

  Attributes:
    strides: of the encoder's blocks; the decoder's in reverse. Their product is the hop in samples.
    channels: of the encoder's first layer; each block doubles them.
    decoder_channels: of the decoder's first layer; each block halves them.
  """

  strides: tuple[int, ...] = (2, 4, 8, 8)
  channels: int = 64
  decoder_channels: int = 1536

  whole_frames: ClassVar[bool] = True  # of audio that it takes

  def __post_init__(self):
    object.__setattr__(self, 'strides', tuple(self.strides))
    if not self.strides or min(*self.strides, self.channels) < 1:
      raise errors.ConfigError('DAC: channels and strides must be positive')
    if self.decoder_channels % 2 ** len(self.strides):
      raise errors.ConfigError(
        f'DAC: decoder_channels {self.decoder_channels} cannot be halved in each block'
      )

  @property
  def hop(self) -> int:
    """Samples a frame."""
    return math.prod(self.strides)

  def build(self, audio_channels: int, dimension: int, sample_rate: int) -> 'DacNetwork':
    """The network between `audio_channels` and latents of `dimension`."""
    del sample_rate  # the same network at every one
    return DacNetwork(self, audio_channels, dimension)

  def parts(self, direction: str) -> tuple[Part, ...]:
    """Of the encoder or the decoder; see `parts`."""
    unit = [reach.Conv(7, 3 * d, dilation=d) for d in DILATIONS]
    if direction == 'encode':
      layers = [reach.Conv(7, 3)]
      for stride in self.strides:
        layers += [*unit, reach.Conv(2 * stride, math.ceil(stride / 2), stride)]
      layers.append(reach.Conv(3, 1))
      return (Part('encode', *reach.reach(layers, 1, self.hop), self.hop, 1),)
    layers = [reach.Conv(7, 3)]
    for stride in reversed(self.strides):
      layers += [reach.Up(2 * stride, math.ceil(stride / 2), stride), *unit]
    layers.append(reach.Conv(7, 3))
    return (Part('decode', *reach.reach(layers, self.hop, 1), 1, self.hop),)


class ResidualUnit(nn.Module):
  """Dilated convolution of kernel 7, then 1 x 1, each after a Snake, around a skip connection.

  Attributes:
    dilation: of the first.
    fast: with fewer products, whose sums round otherwise; not where codes hang on them.
  """

  dilation: int
  fast: bool

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b t c']:
    channels = x.shape[-1]
    y = Snake(name='snake1')(x)
    y = convolution.Conv(channels, 7, self.dilation, self.fast, name='conv1')(y)
    y = Snake(name='snake2')(y)
    return x + nn.Conv(channels, (1,), name='conv2')(y)


class DacNetwork(nn.Module):
  """Encoder and decoder around the latents that the quantiser sees."""

  config: DacConfig
  audio_channels: int
  dimension: int

  def setup(self):
    config = self.config
    width = config.channels
    encoder: list = [nn.Conv(width, (7,), padding=((3, 3),), name='encoder_first')]
    for n, stride in enumerate(config.strides):
      encoder += [
        ResidualUnit(d, fast=False, name=f'encoder_{n}_unit{i + 1}') for i, d in enumerate(DILATIONS)
      ]
      width *= 2
      pad = math.ceil(stride / 2)
      down = nn.Conv(width, (2 * stride,), strides=stride, padding=((pad, pad),), name=f'encoder_{n}_down')
      encoder += [Snake(name=f'encoder_{n}_snake'), down]
    last = nn.Conv(self.dimension, (3,), padding=((1, 1),), name='encoder_last')
    self.encoder = [*encoder, Snake(name='encoder_snake'), last]
    width = config.decoder_channels
    decoder: list = [convolution.Conv(width, 7, name='decoder_first')]
    for n, stride in enumerate(reversed(config.strides)):
      width //= 2
      pad = math.ceil(stride / 2)
      decoder += [Snake(name=f'decoder_{n}_snake'), Upsample(width, stride, pad, pad, name=f'decoder_{n}_up')]
      decoder += [
        ResidualUnit(d, fast=True, name=f'decoder_{n}_unit{i + 1}') for i, d in enumerate(DILATIONS)
      ]
    last = nn.Conv(self.audio_channels, (7,), padding=((3, 3),), name='decoder_last')
    self.decoder = [*decoder, Snake(name='decoder_snake'), last, nn.tanh]

  def encode(self, audio: Float[Array, 'batch samples channels']) -> Float[Array, 'batch time dimension']:
    """Latents; `samples` is a multiple of the hop."""
    for layer in self.encoder:
      audio = layer(audio)
    return audio

  def decode(self, latents: Float[Array, 'batch time dimension']) -> Float[Array, 'batch samples channels']:
    """Audio; where strides are odd a few samples less than time x hop, as published."""
    for layer in self.decoder:
      latents = layer(latents)
    return latents

  def __call__(self, audio):
    return self.decode(self.encode(audio))
