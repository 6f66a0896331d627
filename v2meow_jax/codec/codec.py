"""A codec ready for use: audio to codes and back, whatever network lies behind it."""

import dataclasses
import functools
import hashlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import gin
from v2meow_jax import description, errors, linen
from v2meow_jax.codec import quantizer
from v2meow_jax.codec.soundstream import SoundStreamConfig
from v2meow_jax.codec.spectral import SpectralConfig
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream


@gin.register
@dataclasses.dataclass(frozen=True)
class CodecConfig:
  """A network with its quantiser.

  Attributes:
    network: `SoundStreamConfig` or `SpectralConfig`.
    quantizer: the residual quantiser's settings.
    sample_rate: in Hz.
    channels: of the audio.
    stream: name of the token stream that the codec makes.
  """

  network: SoundStreamConfig | SpectralConfig
  quantizer: quantizer.QuantizerConfig
  sample_rate: int = 24000
  channels: int = 1
  stream: str = 'audio/acoustic'

  def __post_init__(self):
    if self.sample_rate < 1 or self.channels < 1:
      raise errors.ConfigError('codec: sample rate and channels must be positive')

  def build(self):
    """The Linen network, with methods `encode` and `decode`."""
    return self.network.build(self.channels, self.quantizer.dimension)

  @property
  def tokens(self) -> Stream:
    """The stream of codes."""
    rate = Fraction(self.sample_rate, self.network.hop)
    return Stream(self.stream, 'tokens', rate, self.quantizer.levels, self.quantizer.codes)


TYPES = (CodecConfig, SoundStreamConfig, SpectralConfig, quantizer.QuantizerConfig)


class Codec:
  """Encodes and decodes with fixed weights.

  Args:
    config: what to build.
    weights: `{'params': tree, 'codebooks': [levels, codes, dimension]}`.
    identity: of the weights as trained, where these are stored in fewer bits; computed by default.
  """

  needs = 'audio'

  def __init__(self, config: CodecConfig, weights: dict, identity: dict | None = None):
    self.config = config
    self.weights = jax.tree.map(lambda x: np.asarray(x, np.float32), weights)
    self.stream = config.tokens
    self._identity = identity
    network = config.build()

    @jax.jit
    def encode(weights, audio):
      latents = linen.call(network, weights['params'], audio, method='encode')
      return quantizer.encode(weights['codebooks'], latents)[0]

    @jax.jit
    def decode(weights, codes):
      latents = quantizer.decode(weights['codebooks'], codes)
      return linen.call(network, weights['params'], latents, method='decode')

    self._encode, self._decode = encode, decode

  def __reduce__(self):
    return Codec, (
      self.config,
      self.weights,
      self._identity,
    )  # compiled functions do not travel to other processes

  @property
  def sample_rate(self) -> int:
    """Of the audio, in Hz."""
    return self.config.sample_rate

  @functools.cached_property
  def _own_identity(self) -> dict:
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(self.weights), key=lambda kv: str(kv[0])):
      digest.update(str(path).encode() + np.ascontiguousarray(leaf).tobytes())
    return {'encoder': 'codec', 'config': description.describe(self.config), 'sha256': digest.hexdigest()}

  @property
  def identity(self) -> dict:
    """What `streams.json` records: the settings and a hash of the weights."""
    return self._identity or self._own_identity

  def encode(self, audio: Float[np.ndarray, 'samples channels']) -> Int[np.ndarray, 'time levels']:
    """Codes of audio at the codec's rate and number of channels; the last frame is filled with zeros.

    Raises:
      ValueError: another number of channels, no samples, or values that are not finite.
    """
    if audio.ndim != 2 or audio.shape[1] != self.config.channels or not len(audio):
      raise ValueError(f'audio of shape {audio.shape}; the codec takes [samples > 0, {self.config.channels}]')
    if not np.isfinite(audio).all():
      raise ValueError('the audio holds values that are not finite')
    hop = self.config.network.hop
    padded = np.pad(audio.astype(np.float32), ((0, -len(audio) % hop), (0, 0)))
    return np.asarray(self._encode(self.weights, padded[None])[0])

  def decode(self, codes: Int[np.ndarray, 'time levels']) -> Float[np.ndarray, 'samples channels']:
    """Audio of time x hop samples from the codes of the first `levels` levels.

    Raises:
      ValueError: codes of another shape or beyond the vocabulary.
    """
    levels, vocabulary = self.stream.width, self.stream.codes
    if codes.ndim != 2 or not len(codes) or not 1 <= codes.shape[1] <= levels:
      raise ValueError(f'codes of shape {codes.shape}; the codec takes [time > 0, 1 to {levels} levels]')
    if codes.min() < 0 or codes.max() >= vocabulary:
      raise ValueError(
        f'codes reach from {codes.min()} to {codes.max()}; the codec has 0 to {vocabulary - 1}'
      )
    return np.asarray(self._decode(self.weights, jnp.asarray(codes, jnp.int32)[None])[0])

  def encode_clip(self, clip: MediaClip) -> Int[np.ndarray, 'time levels']:
    """Codes of a clip of a media file; `Encoder`'s method."""
    audio = clip.audio(self.sample_rate, self.config.channels)
    return self.encode(audio)[: self.stream.length(clip.duration)]
