"""`video/siglip`: pictures, or texts, as SigLIP has them (Zhai et al. 2023), SigLIP 2 of fixed size as well.

Reads the folders of `google/siglip-*` and `google/siglip2-*` (not "naflex") as transformers has them.
"""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Int

import gin
from v2meow_jax import errors
from v2meow_jax.encoders import clip, driver, weights
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry, Option
from v2meow_jax.encoders.network import Apply, Network, Pictures
from v2meow_jax.encoders.vit import AttentionPool, Embeddings, TextEmbeddings, Tower, TowerConfig, norm
from v2meow_jax.streams import Stream

HALF = (0.5, 0.5, 0.5)
# transformers' defaults, which published files leave out.
_COMMON = {
  'layer_norm_eps': 1e-6, 'hidden_act': 'gelu_pytorch_tanh', 'num_hidden_layers': 12, 'hidden_size': 768,
  'intermediate_size': 3072, 'num_attention_heads': 12,
}  # fmt: skip
VISION = _COMMON | {'patch_size': 16, 'image_size': 224}
TEXT = _COMMON | {'vocab_size': 32000, 'max_position_embeddings': 64}


class Vision(nn.Module):
  """The tower of pictures, its patches pooled by attention."""

  config: TowerConfig

  @nn.compact
  def __call__(self, pictures: Float[Array, 'batch height width 3']) -> Float[Array, 'batch width']:
    x = Tower(self.config, name='encoder')(Embeddings(self.config, False, name='embeddings')(pictures))
    return AttentionPool(self.config, name='head')(norm(self.config, 'post_layernorm')(x))


class Text(nn.Module):
  """The tower of texts; what stands for a text is its last token, be it one of padding."""

  config: TowerConfig

  @nn.compact
  def __call__(self, tokens: Int[Array, 'batch n']) -> Float[Array, 'batch width']:
    x = Tower(self.config, name='encoder')(TextEmbeddings(self.config, name='embeddings')(tokens))
    pooled = norm(self.config, 'final_layer_norm')(x)[:, -1]
    return nn.Dense(self.config.projection_size or self.config.hidden_size, name='head')(pooled)


def _settings(folder: str, part: str) -> TowerConfig:
  told = weights.settings(folder)
  if told.get('model_type') not in ('siglip', 'siglip2') or 'num_patches' in (
    told.get('vision_config') or {}
  ):
    raise errors.ConfigError(
      f'{folder}: a model of type {told.get("model_type")!r}, not a siglip for pictures of one size'
    )
  return TowerConfig.read(told.get(f'{part}_config') or {}, TEXT if part == 'text' else VISION)


@gin.register
@dataclasses.dataclass(frozen=True)
class SiglipNetwork(Network):
  """Pictures as `get_image_features` gives them.

  Attributes:
    weights: folder of a published SigLIP.
    rate: elements a second, in Hz.
    frames: pictures an element, whose vectors are averaged.
    stream_name: of what comes out.
  """

  weights: str
  rate: Fraction = Fraction(1)
  frames: int = 1
  stream_name: str = 'video/siglip'

  name: ClassVar[str] = 'siglip'

  def __post_init__(self):
    object.__setattr__(self, 'rate', Fraction(self.rate))

  @property
  def reads(self) -> Pictures:
    """Squares of the network's size."""
    side = _settings(self.weights, 'vision').image_size
    return Pictures(self.rate * self.frames, (side, side))

  @property
  def stream(self) -> Stream:
    """As wide as the tower."""
    return Stream(self.stream_name, 'embedding', self.rate, _settings(self.weights, 'vision').hidden_size)

  def load(self) -> tuple[Any, Apply]:
    """See `Network.load`."""
    config = _settings(self.weights, 'vision')
    network = Vision(config)
    example = np.zeros((1, config.image_size, config.image_size, 3), np.float32)
    params = weights.into(network, weights.read(self.weights), example, prefix='vision_model.')
    scaling = clip.preprocessing(self.weights, HALF, HALF)
    return params, functools.partial(clip.of_pictures, network, scaling)


class SiglipText:
  """Texts in the same space.

  Args:
    folder: of a published SigLIP.
  """

  def __init__(self, folder: str):
    config = _settings(folder, 'text')
    self._folder, self.length = folder, config.max_position_embeddings
    network = Text(config)
    example = np.zeros((1, self.length), np.int32)
    self._params = weights.into(network, weights.read(folder), example, prefix='text_model.')
    self._apply = jax.jit(lambda params, tokens: network.apply({'params': params}, tokens))

  def of_tokens(self, tokens: Int[np.ndarray, 'batch n']) -> Float[np.ndarray, 'batch width']:
    """Vectors of texts as token ids, padded to the network's length as in its training."""
    return np.asarray(self._apply(self._params, np.asarray(tokens, np.int32)))

  def of_texts(self, texts: Sequence[str]) -> Float[np.ndarray, 'batch width']:
    """Vectors of texts; what is beyond the network's length is cut off."""
    tokenizer = clip.opened_tokenizer(self._folder)
    pad = weights.settings(self._folder).get('text_config', {}).get('pad_token_id', 1)
    rows = [made.ids[: self.length] for made in tokenizer.encode_batch(list(texts))]
    return self.of_tokens(np.array([row + [pad] * (self.length - len(row)) for row in rows], np.int32))


ENTRY = Entry(
  'siglip',
  'video/siglip',
  settings=SiglipNetwork,
  make=lambda given: driver.NetworkEncoder(configured(SiglipNetwork, weights=given.options['siglip'])),
  rebuild=lambda identity, sources: driver.rebuilt(SiglipNetwork, identity, sources.place(identity)),
  options=(Option('siglip', 'folder of a SigLIP model, for video/siglip'),),
  needs=('siglip',),
  wanted='--siglip, the folder of a SigLIP model',
  pretrained=True,
  essence=driver.essence,
)
