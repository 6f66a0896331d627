"""`audio/semantic` without pretrained weights: log-mel and chroma, clustered by k-means.

MusicLM's semantic tokens are k-means clusters of w2v-BERT's embeddings, 1,024 of them at 25 Hz. The
same clustering of a filter bank and chroma tells loudness, timbre and harmony apart. It stands in
where no pretrained network is at hand, and it makes no claim to know more.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from v2meow_jax import description, errors, files
from v2meow_jax.encoders import codebooks
from v2meow_jax.encoders.entry import Entry, Option
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream


@dataclasses.dataclass(frozen=True)
class SemanticConfig:
  """Settings of the features and the clustering.

  Attributes:
    sample_rate: of the audio analysed, in Hz.
    rate: tokens a second, in Hz; divides the sample rate.
    codes: clusters.
    mels: mel bands, over the whole range.
    chroma_weight: of the 12 pitch classes against the mel bands.
    smoothing: frames averaged, centred; odd.
  """

  sample_rate: int = 16000
  rate: Fraction = Fraction(25)
  codes: int = 1024
  mels: int = 40
  chroma_weight: float = 1.0
  smoothing: int = 3

  def __post_init__(self):
    object.__setattr__(self, 'rate', Fraction(self.rate))
    if self.rate <= 0 or (self.sample_rate / self.rate) % 1:
      raise errors.ConfigError(
        f'semantic: rate {self.rate} Hz does not divide the sample rate {self.sample_rate} Hz'
      )
    if self.smoothing % 2 == 0:
      raise errors.ConfigError(f'semantic: smoothing {self.smoothing} is not odd')


@functools.cache
def _filters(sample_rate: int, window: int, mels: int) -> tuple[np.ndarray, np.ndarray]:
  import librosa

  mel = librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=mels)
  chroma = librosa.filters.chroma(sr=sample_rate, n_fft=window, tuning=0.0)
  return mel.T.astype(np.float32), chroma.T.astype(np.float32)


def features(
  config: SemanticConfig, audio: Float[np.ndarray, ' samples']
) -> Float[np.ndarray, 'n dimensions']:
  """Log-mel and chroma of each frame, float32, before normalisation; one a 1 / rate seconds of audio."""
  hop = int(config.sample_rate / config.rate)
  window = 4 * hop
  count = -(-len(audio) // hop)
  pad = (window - hop) // 2
  padded = np.pad(audio, (pad, window))
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:count]
  power = np.abs(np.fft.rfft(frames * np.hanning(window + 1)[:-1].astype(np.float32))) ** 2
  power = power.astype(np.float32)
  mel, chroma = _filters(config.sample_rate, window, config.mels)
  loudness = np.log(power @ mel + 1e-4)
  pitch = power @ chroma
  pitch = pitch / (pitch.max(1, keepdims=True) + 1e-3)
  joined = np.concatenate([loudness, pitch], 1)
  if config.smoothing > 1 and len(joined):
    half = config.smoothing // 2
    edged = np.pad(joined, ((half, half), (0, 0)), mode='edge')
    joined = np.mean([edged[i : i + len(joined)] for i in range(config.smoothing)], 0)
  return joined.astype(np.float32)


class SemanticEncoder:
  """Clusters of features.

  Args:
    config: what was fitted.
    mean, deviation: of each dimension over the training audio.
    centres: [codes, dimensions], of the normalised features.
  """

  needs = 'audio'

  def __init__(self, config: SemanticConfig, mean: np.ndarray, deviation: np.ndarray, centres: np.ndarray):
    self.config, self.mean, self.deviation, self.centres = config, mean, deviation, centres

  @classmethod
  def fit(
    cls, config: SemanticConfig, points: Float[np.ndarray, 'n dimensions'], seed: int = 0
  ) -> 'SemanticEncoder':
    """Fits normalisation and centres to features of training audio.

    Raises:
      errors.DatasetError: fewer frames than codes.
    """
    if len(points) < config.codes:
      raise errors.DatasetError(
        f'{len(points)} frames of audio cannot make {config.codes} clusters; use more audio'
      )
    mean, deviation = points.mean(0), points.std(0) + 1e-3
    encoder = cls(config, mean, deviation, np.zeros((config.codes, points.shape[1]), np.float32))
    blocks = codebooks.of_array(encoder._quantizer.normalised(points))
    encoder.centres = codebooks.fit(blocks, 1, config.codes, seed=seed).codebooks[0]
    return encoder

  @property
  def _quantizer(self) -> codebooks.Quantizer:
    # Both parts weigh as one dimension each.
    scale = np.concatenate(
      [
        np.full(self.config.mels, 1 / np.sqrt(self.config.mels)),
        np.full(12, self.config.chroma_weight / np.sqrt(12)),
      ]
    )
    return codebooks.Quantizer(self.centres[None], self.mean, scale / self.deviation)

  @property
  def stream(self) -> Stream:
    """`audio/semantic`."""
    return Stream('audio/semantic', 'tokens', self.config.rate, 1, self.config.codes)

  @property
  def identity(self) -> dict[str, Any]:
    """Settings and a hash of what was fitted."""
    digest = hashlib.sha256()
    for array in (self.mean, self.deviation, self.centres):
      digest.update(np.ascontiguousarray(array, np.float32).tobytes())
    return {'encoder': 'semantic', 'config': description.describe(self.config), 'sha256': digest.hexdigest()}

  def encode(self, audio: Float[np.ndarray, ' samples']) -> Int[np.ndarray, 'n 1']:
    """Tokens of mono audio at the configured sample rate."""
    return self._quantizer.quantize(features(self.config, audio))

  def encode_clip(self, clip: MediaClip) -> Int[np.ndarray, 'n 1']:
    """Tokens of a clip."""
    return self.encode(clip.audio(self.config.sample_rate)[:, 0])[: self.stream.length(clip.duration)]

  def save(self, path: str | pathlib.Path) -> None:
    """Writes a safetensors file with the settings in its metadata."""
    from safetensors.numpy import save

    arrays = {'mean': self.mean, 'deviation': self.deviation, 'centres': self.centres}
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    data = save(arrays, metadata={'config': json.dumps(description.describe(self.config))})
    files.write_bytes(path, data)

  @classmethod
  def load(cls, path: str | pathlib.Path) -> 'SemanticEncoder':
    """Reads what `save` wrote.

    Raises:
      errors.BundleError: missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
      with safe_open(str(path), 'numpy') as file:
        about = json.loads(file.metadata()['config'])
        config = description.rebuild(about, [SemanticConfig], SemanticConfig)
        return cls(config, *(file.get_tensor(name) for name in ('mean', 'deviation', 'centres')))
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
      raise errors.BundleError(
        f'{path}: missing, or not a semantic encoder ({error}); see v2meow fit-semantic'
      ) from error


ENTRY = Entry(
  'semantic',
  'audio/semantic',
  make=lambda given: SemanticEncoder.load(given.options['semantic']),
  rebuild=lambda identity, sources: SemanticEncoder.load(sources.folder / ENTRY.file),
  options=(Option('semantic', "fit-semantic's file, instead of --bundle", pathlib.Path),),
  needs=('semantic',),
  wanted='--bundle, or --semantic with a fitted encoder',
  fitted=lambda path: SemanticEncoder.load(path).identity,
)
