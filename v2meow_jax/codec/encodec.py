"""EnCodec as published (Défossez et al. 2022): SEANet with an LSTM between convolutions, 24 and 32 kHz."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors
from v2meow_jax.codec import reach
from v2meow_jax.codec.layers import Carry, Lstm, Upsample
from v2meow_jax.codec.parts import Part

KERNEL, RESIDUAL_KERNEL, LSTM_LAYERS = 7, 3, 2


@gin.register
@dataclasses.dataclass(frozen=True)
class EncodecConfig:
  """Settings of the network; the defaults are the 24 kHz model's.

  Attributes:
    strides: of the encoder's blocks; the decoder's in reverse. Their product is the hop in samples.
    channels: of the first layer; each block doubles them.
    causal: all padding before the signal, as at 24 kHz, or on both sides, as at 32.
    shortcut: a 1 x 1 convolution on the skip connections, as at 24 kHz.
  """

  strides: tuple[int, ...] = (2, 4, 5, 8)
  channels: int = 32
  causal: bool = True
  shortcut: bool = True

  whole_frames: ClassVar[bool] = False  # of audio that it takes

  def __post_init__(self):
    object.__setattr__(self, 'strides', tuple(self.strides))
    if not self.strides or min(*self.strides, self.channels) < 1:
      raise errors.ConfigError('EnCodec: channels and strides must be positive')
    if self.channels % 2:
      raise errors.ConfigError(f'EnCodec: channels {self.channels} must be even')

  @property
  def hop(self) -> int:
    """Samples a frame."""
    return math.prod(self.strides)

  def build(self, audio_channels: int, dimension: int, sample_rate: int) -> 'EncodecNetwork':
    """The network between `audio_channels` and latents of `dimension`."""
    del sample_rate  # the same network at every one
    return EncodecNetwork(self, audio_channels, dimension)

  def padding(self, kernel: int, stride: int = 1) -> tuple[int, int]:
    """Elements of padding before and after a convolution."""
    total = kernel - stride
    return (total, 0) if self.causal else (total - total // 2, total // 2)

  def trim(self, stride: int) -> int:
    """Outputs of a transposed convolution that are cut at the start."""
    return 0 if self.causal else stride - stride // 2

  def parts(self, direction: str) -> tuple[Part, ...]:
    """Of the encoder or the decoder; see `parts`."""
    conv = lambda kernel, stride=1: reach.Conv(kernel, self.padding(kernel, stride)[0], stride)  # noqa: E731
    hop, unit = self.hop, [conv(RESIDUAL_KERNEL), conv(1)]
    # The reflection at the start is of later elements: of a layer at the frame rate, as many frames.
    lead = self.padding(KERNEL)[0]
    if direction == 'encode':
      layers = [conv(KERNEL)]
      for stride in self.strides:
        layers += [*unit, conv(2 * stride, stride)]
      return (
        Part('encode_convolutions', *reach.reach(layers, 1, hop), hop, 1, lead=2),
        Part('encode_lstm', 0, 0, 1, 1, recurrent=True),
        Part('encode_last', *reach.reach([conv(KERNEL)], 1, 1), 1, 1, lead=lead),
      )
    layers = []
    for stride in reversed(self.strides):
      layers += [reach.Up(2 * stride, self.trim(stride), stride), *unit]
    layers.append(conv(KERNEL))
    return (
      Part('decode_first', *reach.reach([conv(KERNEL)], 1, 1), 1, 1, lead=lead),
      Part('decode_lstm', 0, 0, 1, 1, recurrent=True),
      Part('decode_convolutions', *reach.reach(layers, hop, 1), 1, hop, lead=2),
    )


class ReflectConv(nn.Module):
  """Convolution on a signal that is reflected at its ends, also by what a last stride lacks."""

  config: EncodecConfig
  features: int
  kernel: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b u features']:
    before, after = self.config.padding(self.kernel, self.stride)
    after += -x.shape[1] % self.stride
    length = x.shape[1]
    # Nothing can be reflected that is not there: a short signal goes on with zeros.
    short = max(0, max(before, after) - length + 1)
    x = jnp.pad(x, ((0, 0), (0, short), (0, 0)))
    x = jnp.pad(x, ((0, 0), (before, after), (0, 0)), mode='reflect')[:, : before + length + after]
    return nn.Conv(self.features, (self.kernel,), strides=self.stride, padding='VALID', name='conv')(x)


class ResidualBlock(nn.Module):
  """Two convolutions, each after an ELU, around a skip connection."""

  config: EncodecConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b t c']:
    channels = x.shape[-1]
    y = ReflectConv(self.config, channels // 2, RESIDUAL_KERNEL, name='block_1')(nn.elu(x))
    y = ReflectConv(self.config, channels, 1, name='block_3')(nn.elu(y))
    return y + (ReflectConv(self.config, channels, 1, name='shortcut')(x) if self.config.shortcut else x)


def _run(layers: list, x: Array) -> Array:
  for layer in layers:
    x = layer(x)
  return x


class EncodecNetwork(nn.Module):
  """Encoder and decoder around the latents that the quantiser sees; layers are numbered as published."""

  config: EncodecConfig
  audio_channels: int
  dimension: int

  def setup(self):
    config = self.config
    width = config.channels
    layers: list = [ReflectConv(config, width, KERNEL, name='encoder_0')]
    for n, stride in enumerate(config.strides):
      layers += [ResidualBlock(config, name=f'encoder_{3 * n + 1}'), nn.elu]
      width *= 2
      layers.append(ReflectConv(config, width, 2 * stride, stride, name=f'encoder_{3 * n + 3}'))
    self.encoder = layers
    at = 3 * len(config.strides) + 1
    self.encoder_lstm = Lstm(LSTM_LAYERS, name=f'encoder_{at}')
    self.encoder_last = ReflectConv(config, self.dimension, KERNEL, name=f'encoder_{at + 2}')
    self.decoder_first = ReflectConv(config, width, KERNEL, name='decoder_0')
    self.decoder_lstm = Lstm(LSTM_LAYERS, name='decoder_1')
    layers = []
    for n, stride in enumerate(reversed(config.strides)):
      width //= 2
      trim = config.trim(stride)
      layers += [nn.elu, Upsample(width, stride, trim, stride - trim, name=f'decoder_{3 * n + 3}')]
      layers.append(ResidualBlock(config, name=f'decoder_{3 * n + 4}'))
    self.decoder = [
      *layers,
      nn.elu,
      ReflectConv(config, self.audio_channels, KERNEL, name=f'decoder_{at + 2}'),
    ]

  def encode_convolutions(
    self, audio: Float[Array, 'batch samples channels']
  ) -> Float[Array, 'batch time w']:
    """All before the LSTM."""
    return _run(self.encoder, audio)

  def encode_lstm(self, x: Float[Array, 'batch time w'], carry: Carry | None = None) -> tuple[Array, Carry]:
    """The encoder's LSTM."""
    return self.encoder_lstm(x, carry)

  def encode_last(self, x: Float[Array, 'batch time w']) -> Float[Array, 'batch time dimension']:
    """All after it."""
    return self.encoder_last(nn.elu(x))

  def encode(self, audio: Float[Array, 'batch samples channels']) -> Float[Array, 'batch time dimension']:
    """Latents of any number of samples; the last frame may be partly reflection."""
    return self.encode_last(self.encode_lstm(self.encode_convolutions(audio))[0])

  def decode_first(self, latents: Float[Array, 'batch time dimension']) -> Float[Array, 'batch time w']:
    """All before the LSTM."""
    return self.decoder_first(latents)

  def decode_lstm(self, x: Float[Array, 'batch time w'], carry: Carry | None = None) -> tuple[Array, Carry]:
    """The decoder's LSTM."""
    return self.decoder_lstm(x, carry)

  def decode_convolutions(self, x: Float[Array, 'batch time w']) -> Float[Array, 'batch samples channels']:
    """All after it."""
    return _run(self.decoder, x)

  def decode(self, latents: Float[Array, 'batch time dimension']) -> Float[Array, 'batch samples channels']:
    """Audio of time x hop samples."""
    return self.decode_convolutions(self.decode_lstm(self.decode_first(latents))[0])

  def __call__(self, audio):
    return self.decode(self.encode(audio))
