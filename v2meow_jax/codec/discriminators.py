"""Networks that tell a codec from music: on waveforms at three scales and on an STFT (SoundStream, III-D)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors
from v2meow_jax.codec import spectrogram

Judgement = tuple[Array, list[Array]]  # logits, and the features of the layers before them


@gin.register
@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """Settings of the discriminators.

  Attributes:
    scales: the waveform discriminator sees the audio at 1/scale of its rate, once for each.
    wave_channels: of its first layer; each of the four strided layers has four times as many, up to
      `wave_width`.
    wave_width: its greatest number of channels.
    grouped: four inputs a group in its strided layers, as in MelGAN (Kumar et al. 2019); without groups
      they are dearer, but not on CPUs.
    windows: of the STFT discriminators, in samples; the hop is a quarter.
    stft_channels: of their first layer.
    blocks: their residual blocks; each halves the bins, every second one the frames.
  """

  scales: tuple[int, ...] = (1, 2, 4)
  wave_channels: int = 16
  wave_width: int = 1024
  grouped: bool = True
  windows: tuple[int, ...] = (1024,)
  stft_channels: int = 32
  blocks: int = 6

  def __post_init__(self):
    object.__setattr__(self, 'scales', tuple(self.scales))
    object.__setattr__(self, 'windows', tuple(self.windows))
    sizes = (self.wave_channels, self.wave_width, self.stft_channels, self.blocks)
    if min((*sizes, *self.scales, *self.windows)) < 1 or not (self.scales or self.windows):
      raise errors.ConfigError('discriminators: sizes, scales and windows must be positive, and one of them')
    if any(window // 2 < 2**self.blocks for window in self.windows):
      raise errors.ConfigError(
        f'discriminators: a window of {self.windows} is too short for {self.blocks} blocks'
      )


def _leaky(x: Array) -> Array:
  return nn.leaky_relu(x, 0.2)


class GroupedConv(nn.Module):
  """Convolution in groups of channels with padding as of 'SAME', as one batched product of matrices.

  XLA's own grouped convolution has a wrong gradient of its kernel where the batch lies over some axes of a
  mesh and is repeated over others (jax 0.10, meshes such as 2 x 2 x 2).

  Kernel: [kernel, in / groups, features], as `nn.Conv` has it.
  """

  features: int
  kernel: int
  stride: int
  groups: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b t c']) -> Float[Array, 'b u features']:
    batch, time, channels = x.shape
    size, stride, groups = channels // self.groups, self.stride, self.groups
    shape = (self.kernel, size, self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    count, blocks = -(-time // stride), -(-self.kernel // stride)
    before = max((count - 1) * stride + self.kernel - time, 0) // 2
    padded = (count + blocks - 1) * stride
    x = jnp.pad(x, ((0, 0), (before, padded - before - time), (0, 0)))
    # Rows of whole strides, so that what an output sees is a few rows in a row.
    rows = x.reshape(batch, -1, stride, groups, size).transpose(0, 1, 3, 2, 4)
    rows = rows.reshape(batch, -1, groups, stride * size)
    seen = jnp.concatenate([rows[:, i : i + count] for i in range(blocks)], -1)
    taps = jnp.pad(kernel, ((0, blocks * stride - self.kernel), (0, 0), (0, 0)))
    taps = taps.reshape(blocks * stride * size, groups, -1)
    return jnp.einsum('bugk,kgd->bugd', seen, taps).reshape(batch, count, -1) + bias


class WaveDiscriminator(nn.Module):
  """Strided convolutions on the waveform; MelGAN's, which SoundStream takes over."""

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, audio: Float[Array, 'b t c']) -> Judgement:
    config, width = self.config, self.config.wave_channels
    x = _leaky(nn.Conv(width, (15,))(audio))
    features = [x]
    for _ in range(4):
      groups = max(width // 4, 1) if config.grouped else 1
      width = min(4 * width, config.wave_width)
      x = _leaky(GroupedConv(width, 41, 4, groups)(x) if groups > 1 else nn.Conv(width, (41,), strides=4)(x))
      features.append(x)
    x = _leaky(nn.Conv(width, (5,))(x))
    return nn.Conv(1, (3,))(x), [*features, x]


class StftBlock(nn.Module):
  """Residual block that strides over frames and bins (SoundStream, figure 4)."""

  features: int
  strides: tuple[int, int]

  @nn.compact
  def __call__(self, x: Float[Array, 'b t f c']) -> Float[Array, 'b u g features']:
    y = nn.elu(nn.Conv(x.shape[-1], (3, 3))(nn.elu(x)))
    kernel = (self.strides[0] + 2, self.strides[1] + 2)
    y = nn.Conv(self.features, kernel, strides=self.strides)(y)
    return y + nn.Conv(self.features, (1, 1), strides=self.strides, name='shortcut')(x)


class StftDiscriminator(nn.Module):
  """Two-dimensional convolutions on real and imaginary parts; one logit a remaining frame."""

  config: DiscriminatorConfig
  window: int

  @nn.compact
  def __call__(self, audio: Float[Array, 'b t c']) -> Judgement:
    config, window = self.config, self.window
    spectrum = spectrogram.stft(jnp.swapaxes(audio, 1, 2), window, window // 4)[..., : window // 2]
    parts = jnp.concatenate([spectrum.real, spectrum.imag], 1)  # [b, 2 channels, frames, bins]
    x = nn.Conv(config.stft_channels, (7, 7))(jnp.moveaxis(parts, 1, -1))
    features = [x]
    width = config.stft_channels
    for n in range(config.blocks):
      width *= 2 if n in (0, 1, 3, 5) else 1
      x = StftBlock(width, (1 + n % 2, 2))(x)
      features.append(x)
    x = nn.elu(x)
    return nn.Conv(1, (1, x.shape[2]), padding='VALID')(x)[:, :, 0], features


class Discriminators(nn.Module):
  """All of them: [batch, samples, channels] -> a list of (logits, features)."""

  config: DiscriminatorConfig

  @nn.compact
  def __call__(self, audio: Float[Array, 'b t c']) -> list[Judgement]:
    judged = []
    for scale in self.config.scales:
      coarse = nn.avg_pool(audio, (2 * scale,), (scale,), padding='SAME') if scale > 1 else audio
      judged.append(WaveDiscriminator(self.config, name=f'wave_{scale}')(coarse))
    for window in self.config.windows:
      judged.append(StftDiscriminator(self.config, window, name=f'stft_{window}')(audio))
    return judged
