"""`style/clap`: one vector for music or for a text about it, in CLAP's joint space (Wu et al. 2023).

It takes the place that MuLan has in MusicLM and V2Meow: in training the vector of the music itself, at
generation that of a prompt or of another recording.
"""

import dataclasses
import functools
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

import gin
from v2meow_jax import description, errors
from v2meow_jax.encoders import pretrained
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry, Given, Identity, Option, Sources
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream


@gin.register
@dataclasses.dataclass(frozen=True)
class ClapConfig:
  """How a clip becomes one vector.

  Attributes:
    window: seconds that the network hears at once; what is shorter is repeated.
    stride: seconds between windows, whose vectors are averaged (MusicLM has windows of 10 s, 1 s apart).
    captions: a clip's vector is that of its caption, where it has one.
  """

  window: float = 10.0
  stride: float = 10.0
  captions: bool = False

  def __post_init__(self):
    if not 0 < self.stride <= self.window <= 10:
      raise errors.ConfigError(
        f'clap: window {self.window} and stride {self.stride}: need 0 < stride <= window <= 10 seconds'
      )


class ClapEncoder:
  """A CLAP model of the `transformers` library.

  Args:
    source: folder, or id of the hub.
    config: how it is used.
  """

  needs = 'audio'

  def __init__(self, source: str, config: ClapConfig = ClapConfig()):
    self.source, self.config = str(source), config

  def __reduce__(self):
    # The network is loaded anew in another process.
    return ClapEncoder, (self.source, self.config)

  @functools.cached_property
  def _loaded(self) -> tuple[Any, Any]:
    model, processor = pretrained.load('ClapModel', 'ClapProcessor', self.source)
    if model.config.audio_config.enable_fusion != (processor.feature_extractor.truncation == 'fusion'):
      raise errors.ConfigError(
        f'{self.source}: network and feature extractor do not belong together; one fuses long audio'
      )
    return model, processor

  @property
  def stream(self) -> Stream:
    """`style/clap`, one vector a clip."""
    return Stream('style/clap', 'embedding', Fraction(0), self._loaded[0].config.projection_dim)

  @functools.cached_property
  def _hash(self) -> str:
    return pretrained.weights_hash(self._loaded[0])

  @property
  def identity(self) -> dict[str, Any]:
    """Model, settings, and a hash of the weights."""
    return {
      'encoder': 'clap',
      'model': pretrained.name_of(self.source),
      'config': description.describe(self.config),
      'sha256': self._hash,
    }

  def encode_clip(self, clip: MediaClip) -> Float[np.ndarray, '1 width']:
    """The vector of the clip's sound, or of its caption."""
    if self.config.captions and clip.caption.strip():
      return self.encode_text(clip.caption)
    rate = self._loaded[1].feature_extractor.sampling_rate
    return self.encode_audio(clip.audio(rate)[:, 0])

  def encode_audio(self, audio: Float[np.ndarray, ' samples']) -> Float[np.ndarray, '1 width']:
    """The unit vector of mono audio at the network's rate: the mean of its windows' unit vectors."""
    import torch  # type: ignore[import-not-found]

    model, processor = self._loaded
    extractor = processor.feature_extractor
    window, stride = (round(x * extractor.sampling_rate) for x in (self.config.window, self.config.stride))
    starts = range(0, max(1, len(audio) - window + stride), stride)
    total = np.zeros(self.stream.width)
    for start in starts:
      part = audio[start : start + window].astype(np.float64)
      made = extractor(part, sampling_rate=extractor.sampling_rate, return_tensors='pt')
      # No window is longer than the network hears; the extractor of fusing models marks one at random.
      longer = torch.zeros_like(made['is_longer'])
      with torch.inference_mode():
        found = model.get_audio_features(made['input_features'].float(), is_longer=longer)
      total += _unit(found)
    return _unit(total)[None].astype(np.float32)

  def encode_text(self, text: str) -> Float[np.ndarray, '1 width']:
    """The unit vector of a text; what is beyond the network's length is cut off."""
    import torch  # type: ignore[import-not-found]

    model, processor = self._loaded
    tokens = processor.tokenizer(text, truncation=True, max_length=self._length, return_tensors='pt')
    with torch.inference_mode():
      found = model.get_text_features(tokens['input_ids'], attention_mask=tokens['attention_mask'])
    return _unit(found)[None].astype(np.float32)

  @property
  def _length(self) -> int:
    # RoBERTa counts its positions from behind the padding token's.
    config = self._loaded[0].config.text_config
    return min(77, config.max_position_embeddings - config.pad_token_id - 1)


def _unit(found: Any) -> np.ndarray:
  """A vector [width] of length 1, from what any version of the library returns."""
  vector = getattr(found, 'pooler_output', found)
  vector = np.asarray(vector, np.float64).reshape(-1)
  return vector / max(np.linalg.norm(vector), 1e-12)


def _make(given: Given) -> ClapEncoder:
  told = given.options
  config = configured(ClapConfig, stride=told.get('clap_stride'), captions=told.get('captions') or None)
  return ClapEncoder(told['clap'], config)


def _rebuild(identity: Identity, sources: Sources) -> ClapEncoder:
  config = description.rebuild(identity['config'], [ClapConfig], ClapConfig)
  return ClapEncoder(sources.networks.get('clap') or identity['model'], config)


def _essence(identity: dict[str, Any]) -> dict[str, Any]:
  # The model's name is a place, and the hash says which it is. Captions are for training: what a text or a
  # recording becomes is the same.
  config = {key: value for key, value in identity['config'].items() if key != 'captions'}
  return {key: value for key, value in identity.items() if key != 'model'} | {'config': config}


ENTRY = Entry(
  'clap',
  'style/clap',
  settings=ClapConfig,
  make=_make,
  rebuild=_rebuild,
  options=(
    Option('clap', 'folder or id of a CLAP model, for style/clap and style/tokens'),
    Option('clap_stride', 'seconds between its 10 s windows; 10 by default', float),
    Option('captions', "style of a clip's caption, where it has one", bool),
  ),
  needs=('clap',),
  wanted='--clap, the folder or id of a CLAP model',
  pretrained=True,
  essence=_essence,
)
