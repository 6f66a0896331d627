"""A codec at the frame rate: spectrum in, ConvNeXt blocks, spectrum out.

All convolutions run at tens of frames a second instead of at the sample rate, which makes it train
on a CPU. Blocks and head follow Vocos (Siuzdak 2023): ConvNeXt blocks without downsampling, then
the logarithm of the magnitude and the phase of each bin, and an inverse transform.

What the encoder sees decides what tokens are like. With `complex` they hold the phase, and so where every
frame begins to the sample: the waveform can come back, but a delay of one sample makes other tokens of the
same music, and a language model has nothing to learn in them. With `magnitude` the encoder sees how loud each
mel band is in each channel; a sign or a small delay is nothing to it, and the phase is the decoder's to
invent, as a vocoder does. It is meant for codecs whose tokens are to be modelled.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors
from v2meow_jax.codec import reach, spectrogram
from v2meow_jax.codec.parts import Part

INPUTS = ('complex', 'magnitude')
FLOOR = 1e-4  # of a mel band: the rounding of 16-bit samples lies below it


@gin.register
@dataclasses.dataclass(frozen=True)
class SpectralConfig:
  """Settings of the network.

  Attributes:
    window: samples of the transform; a multiple of `spectrum_hop`.
    spectrum_hop: samples between spectra.
    downsampling: spectra a frame of the codec.
    width: channels of the blocks.
    expansion: of a block's inner layer.
    encoder_blocks, decoder_blocks: their numbers.
    compression: exponent applied to the input's magnitudes, so that quiet bins count; `complex` only.
    input: `complex`: real and imaginary parts; `magnitude`: the logarithm of mel magnitudes.
    mels: bands of a channel; `magnitude` only.
  """

  window: int = 1280
  spectrum_hop: int = 320
  downsampling: int = 2
  width: int = 256
  expansion: int = 3
  encoder_blocks: int = 4
  decoder_blocks: int = 8
  compression: float = 0.3
  input: str = 'complex'
  mels: int = 80

  whole_frames: ClassVar[bool] = True  # of audio that it takes

  def __post_init__(self):
    sizes = (self.spectrum_hop, self.downsampling, self.width, self.expansion, self.mels)
    if self.input not in INPUTS:
      raise errors.ConfigError(f'spectral codec: input {self.input!r} is not one of {", ".join(INPUTS)}')
    if min(*sizes, self.encoder_blocks, self.decoder_blocks) < 1:
      told = f'hop {self.spectrum_hop}, downsampling {self.downsampling}, width {self.width}'
      raise errors.ConfigError(f'spectral codec: {told}, expansion, mels and blocks must be positive')
    if self.window % self.spectrum_hop or self.window < 2 * self.spectrum_hop:
      raise errors.ConfigError(
        f'spectral codec: window {self.window} must be a multiple, at least twice, of hop {self.spectrum_hop}'
      )

  @property
  def hop(self) -> int:
    """Samples a frame of the codec."""
    return self.spectrum_hop * self.downsampling

  def build(self, audio_channels: int, dimension: int, sample_rate: int) -> 'SpectralNetwork':
    """The network between `audio_channels` at `sample_rate` Hz and latents of `dimension`."""
    return SpectralNetwork(self, audio_channels, dimension, sample_rate)

  def parts(self, direction: str) -> tuple[Part, ...]:
    """Of the encoder or the decoder; see `parts`."""
    pad, hop, group = (self.window - self.spectrum_hop) // 2, self.spectrum_hop, self.downsampling
    block = reach.Conv(7, 3)
    if direction == 'encode':
      layers: list = [reach.Conv(self.window, pad, hop), *[block] * self.encoder_blocks]
      layers.append(reach.Conv(group, 0, group))
      return (Part('encode', *reach.reach(layers, 1, self.hop), self.hop, 1),)
    layers = [reach.Up(group, 0, group), *[block] * self.decoder_blocks, reach.Up(self.window, pad, hop)]
    return (Part('decode', *reach.reach(layers, self.hop, 1), 1, self.hop),)


class ConvNeXtBlock(nn.Module):
  """Depthwise convolution of kernel 7, then a two-layer network on each frame, around a skip connection."""

  expansion: int
  scale: float

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b t c']:
    channels, time = x.shape[-1], x.shape[1]
    taps = self.param('depthwise', nn.initializers.normal(0.15), (7, channels))
    padded = jnp.pad(x, ((0, 0), (3, 3), (0, 0)))
    # A sum of shifted products: XLA's grouped convolution on CPU, and its gradient, are many times slower.
    y = sum(padded[:, i : i + time] * taps[i] for i in range(7))
    y = nn.LayerNorm()(y)
    y = nn.Dense(channels * self.expansion)(y)
    y = nn.Dense(channels)(nn.gelu(y))
    return x + y * self.param('scale', nn.initializers.constant(self.scale), (channels,))


class SpectralNetwork(nn.Module):
  """Encoder and decoder around the latents that the quantiser sees."""

  config: SpectralConfig
  audio_channels: int
  dimension: int
  sample_rate: int

  def setup(self):
    config = self.config
    self.encoder_in = nn.Dense(config.width)
    self.encoder_blocks = self._blocks(config.encoder_blocks)
    self.encoder_norm = nn.LayerNorm()
    self.encoder_out = nn.Dense(self.dimension)
    self.decoder_in = nn.Dense(config.width * config.downsampling)
    self.decoder_blocks = self._blocks(config.decoder_blocks)
    self.decoder_norm = nn.LayerNorm()
    self.head = nn.Dense(self.audio_channels * (config.window // 2 + 1) * 2)

  def _blocks(self, count: int) -> list[ConvNeXtBlock]:
    return [ConvNeXtBlock(self.config.expansion, scale=1 / count) for _ in range(count)]

  def encode(self, audio: Float[Array, 'batch samples channels']) -> Float[Array, 'batch time dimension']:
    """Latents; `samples` is a multiple of the hop."""
    config = self.config
    spectrum = spectrogram.stft(jnp.swapaxes(audio, 1, 2), config.window, config.spectrum_hop)
    power = spectrum.real**2 + spectrum.imag**2 + 1e-8
    if config.input == 'magnitude':
      bands = jnp.sqrt(power) @ spectrogram.mel_filters(self.sample_rate, config.window, config.mels)
      features = jnp.log(bands + FLOOR) / 4  # [b, channels, t, mels], near the unit range
    else:
      factor = power ** ((config.compression - 1) / 2)
      features = jnp.stack([spectrum.real * factor, spectrum.imag * factor], -1)  # [b, channels, t, bins, 2]
    batch, time = features.shape[0], features.shape[2]
    x = self.encoder_in(jnp.swapaxes(features, 1, 2).reshape(batch, time, -1))
    for block in self.encoder_blocks:
      x = block(x)
    x = self.encoder_norm(x)
    return self.encoder_out(x.reshape(batch, time // config.downsampling, -1))

  def decode(self, latents: Float[Array, 'batch time dimension']) -> Float[Array, 'batch samples channels']:
    """Audio of time x hop samples."""
    config = self.config
    batch, time = latents.shape[:2]
    x = self.decoder_in(latents).reshape(batch, time * config.downsampling, config.width)
    for block in self.decoder_blocks:
      x = block(x)
    out = self.head(self.decoder_norm(x))
    out = out.reshape(batch, time * config.downsampling, self.audio_channels, config.window // 2 + 1, 2)
    log_magnitude, phase = jnp.swapaxes(out[..., 0], 1, 2), jnp.swapaxes(out[..., 1], 1, 2)
    # A cap far above any sum of 16-bit samples keeps an untrained head from overflowing.
    magnitude = jnp.exp(jnp.minimum(log_magnitude, 8.0))
    spectrum = magnitude * jnp.cos(phase) + 1j * magnitude * jnp.sin(phase)
    return jnp.swapaxes(spectrogram.istft(spectrum, config.window, config.spectrum_hop), 1, 2)

  def __call__(self, audio):
    return self.decode(self.encode(audio))
