"""`video/clip`: pictures, or texts, in CLIP's joint space (Radford et al. 2021), from published weights.

Reads the folders of `openai/clip-vit-*` and `laion/CLIP-*` as transformers has them: `config.json`,
`model.safetensors`, `preprocessor_config.json`, and for texts `tokenizer.json`. No PyTorch is needed.
"""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import gin
from v2meow_jax import errors, linen
from v2meow_jax.encoders import driver, vit, weights
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry, Option
from v2meow_jax.encoders.network import Apply, Network, Pictures
from v2meow_jax.encoders.vit import Embeddings, TextEmbeddings, Tower, TowerConfig, norm
from v2meow_jax.streams import Stream

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# transformers' defaults, which published files leave out.
_COMMON = {'layer_norm_eps': 1e-5, 'hidden_act': 'quick_gelu', 'num_hidden_layers': 12}
VISION = _COMMON | {
  'hidden_size': 768, 'intermediate_size': 3072, 'num_attention_heads': 12, 'patch_size': 32,
  'image_size': 224,
}  # fmt: skip
TEXT = _COMMON | {
  'hidden_size': 512, 'intermediate_size': 2048, 'num_attention_heads': 8, 'vocab_size': 49408,
  'max_position_embeddings': 77, 'eos_token_id': 49407,
}  # fmt: skip


class Vision(nn.Module):
  """The tower of pictures; what stands for a picture is the class token."""

  config: TowerConfig

  @nn.compact
  def __call__(self, pictures: Float[Array, 'batch height width 3']) -> Float[Array, 'batch width']:
    x = Embeddings(self.config, True, name='embeddings')(pictures)
    x = Tower(self.config, name='encoder')(norm(self.config, 'pre_layrnorm')(x))
    return norm(self.config, 'post_layernorm')(x[:, 0])


class Text(nn.Module):
  """The tower of texts, causal; what stands for a text is its end token."""

  config: TowerConfig

  @nn.compact
  def __call__(self, tokens: Int[Array, 'batch n']) -> Float[Array, 'batch width']:
    x = Tower(self.config, name='encoder')(TextEmbeddings(self.config, name='embeddings')(tokens), True)
    end = jnp.argmax(vit.is_end(tokens, self.config.eos_token_id), 1)
    return norm(self.config, 'final_layer_norm')(x[jnp.arange(x.shape[0]), end])


class Joint(nn.Module):
  """A tower and its projection into the joint space."""

  config: TowerConfig
  width: int
  text: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Float[Array, 'batch width']:
    kind, name = (Text, 'text') if self.text else (Vision, 'visual')
    pooled = kind(self.config, name='text_model' if self.text else 'vision_model')(x)
    return nn.Dense(self.width, use_bias=False, name=f'{name}_projection')(pooled)


def _settings(folder: str, part: str) -> tuple[TowerConfig, int]:
  told = weights.settings(folder)
  if told.get('model_type') != 'clip':
    raise errors.ConfigError(f'{folder}: a model of type {told.get("model_type")!r}, not clip')
  config = TowerConfig.read(told.get(f'{part}_config') or {}, TEXT if part == 'text' else VISION)
  return config, int(told.get('projection_dim', 512))


def preprocessing(folder: str, mean: tuple, deviation: tuple) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """(mean, deviation) of `preprocessor_config.json`, where there is one."""
  try:
    told = weights.settings(folder, 'preprocessor_config.json')
  except errors.ConfigError:
    return mean, deviation
  return tuple(told.get('image_mean', mean)), tuple(told.get('image_std', deviation))


@gin.register
@dataclasses.dataclass(frozen=True)
class ClipNetwork(Network):
  """Pictures in the joint space, as `get_image_features` gives them: not of unit length.

  Attributes:
    weights: folder of a published CLIP.
    rate: elements a second, in Hz.
    frames: pictures an element, whose vectors are averaged.
    stream_name: of what comes out.
  """

  weights: str
  rate: Fraction = Fraction(1)
  frames: int = 1
  stream_name: str = 'video/clip'

  name: ClassVar[str] = 'clip'

  def __post_init__(self):
    object.__setattr__(self, 'rate', Fraction(self.rate))

  @property
  def reads(self) -> Pictures:
    """Squares of the network's size."""
    side = _settings(self.weights, 'vision')[0].image_size
    return Pictures(self.rate * self.frames, (side, side))

  @property
  def stream(self) -> Stream:
    """As wide as the joint space."""
    return Stream(self.stream_name, 'embedding', self.rate, _settings(self.weights, 'vision')[1])

  def load(self) -> tuple[Any, Apply]:
    """See `Network.load`."""
    config, width = _settings(self.weights, 'vision')
    network = Joint(config, width)
    example = np.zeros((1, config.image_size, config.image_size, 3), np.float32)
    params = weights.into(network, weights.read(self.weights), example)
    scaling = preprocessing(self.weights, MEAN, DEVIATION)
    return params, functools.partial(of_pictures, network, scaling)


def of_pictures(
  network: nn.Module, scaling: tuple, params: Any, batch: Array
) -> Float[Array, 'batch 1 width']:
  """The mean over a window of what a network of single pictures makes of each."""
  dtype = jax.tree.leaves(params)[0].dtype
  flat = batch.reshape(-1, *batch.shape[2:])
  scale, offset = scaling
  made = linen.call(network, params, vit.normalised(flat, scale, offset, dtype))
  of_windows = jnp.reshape(made, (batch.shape[0], batch.shape[1], -1)).astype(jnp.float32)
  return jnp.mean(of_windows, axis=1, keepdims=True)


class ClipText:
  """Texts in the same space.

  Args:
    folder: of a published CLIP.
  """

  def __init__(self, folder: str):
    config, width = _settings(folder, 'text')
    self._folder, self.length = folder, config.max_position_embeddings
    network = Joint(config, width, text=True)
    self._params = weights.into(network, weights.read(folder), np.zeros((1, self.length), np.int32))
    self._apply = jax.jit(lambda params, tokens: network.apply({'params': params}, tokens))
    self._end = config.eos_token_id

  def of_tokens(self, tokens: Int[np.ndarray, 'batch n']) -> Float[np.ndarray, 'batch width']:
    """Vectors of texts as token ids, each with its end token, what follows it being of no account."""
    return np.asarray(self._apply(self._params, np.asarray(tokens, np.int32)))

  def of_texts(self, texts: Sequence[str]) -> Float[np.ndarray, 'batch width']:
    """Vectors of texts; what is beyond the network's length is cut off."""
    tokenizer = opened_tokenizer(self._folder)
    end = tokenizer.token_to_id('<|endoftext|>')
    rows = [made.ids for made in tokenizer.encode_batch(list(texts))]
    rows = [row if len(row) <= self.length else [*row[: self.length - 1], end] for row in rows]
    return self.of_tokens(np.array([row + [end] * (self.length - len(row)) for row in rows], np.int32))


def opened_tokenizer(folder: str) -> Any:
  """The tokenizer of a published folder.

  Raises:
    errors.ConfigError: it, or the library for it, is not there.
  """
  try:
    import tokenizers  # type: ignore[import-not-found] (of the extra "encoders")
  except ImportError as error:
    raise errors.ConfigError(
      'texts need the package tokenizers; install v2meow-jax with the extra "encoders"'
    ) from error
  with errors.translated(errors.ConfigError, f'{folder}/tokenizer.json: no tokenizer can be read there'):
    return tokenizers.Tokenizer.from_file(f'{folder}/tokenizer.json')


ENTRY = Entry(
  'clip',
  'video/clip',
  settings=ClipNetwork,
  make=lambda given: driver.NetworkEncoder(configured(ClipNetwork, weights=given.options['clip'])),
  rebuild=lambda identity, sources: driver.rebuilt(ClipNetwork, identity, sources.place(identity)),
  options=(Option('clip', 'folder of a CLIP model, for video/clip'),),
  needs=('clip',),
  wanted='--clip, the folder of a CLIP model',
  pretrained=True,
  essence=driver.essence,
)
