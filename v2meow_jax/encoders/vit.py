"""The Transformer of CLIP and SigLIP in Linen, its modules named as in the published checkpoints.

Pre-norm blocks (Radford et al. 2021, Zhai et al. 2023) by which both the towers of pictures and of texts are
built; what differs between the two families is in `TowerConfig`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from v2meow_jax import errors

ACTIVATIONS = {
  'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
  'gelu': lambda x: jax.nn.gelu(x, approximate=False),
  'gelu_pytorch_tanh': jax.nn.gelu,
}


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """Sizes of a tower, by transformers' names.

  Attributes:
    hidden_size, intermediate_size: widths of the blocks and within their feed-forward.
    num_hidden_layers, num_attention_heads: of the tower, of a block.
    layer_norm_eps: of the layer norms.
    hidden_act: of the feed-forward.
    patch_size, image_size: of pictures, in pixels a side.
    vocab_size, max_position_embeddings: of texts.
    eos_token_id: what CLIP's texts end with; 2 stands for the greatest id, as its first checkpoints have it.
    projection_size: what SigLIP's texts are projected to.
  """

  hidden_size: int
  intermediate_size: int
  num_hidden_layers: int
  num_attention_heads: int
  layer_norm_eps: float
  hidden_act: str
  patch_size: int = 0
  image_size: int = 0
  vocab_size: int = 0
  max_position_embeddings: int = 0
  eos_token_id: int = 2
  projection_size: int = 0

  @classmethod
  def read(cls, told: Mapping[str, Any], defaults: Mapping[str, Any]) -> 'TowerConfig':
    """Out of a part of `config.json`, which leaves out what is the family's default.

    Raises:
      errors.ConfigError: something is missing, or of a kind that is not known here.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    given = {name: value for name, value in {**defaults, **told}.items() if name in names}
    with errors.translated(errors.ConfigError, 'config.json: sizes of the network are missing'):
      made = cls(**given)
    if made.hidden_act not in ACTIVATIONS:
      raise errors.ConfigError(f'config.json: activation {made.hidden_act!r} is not supported')
    return made


class Attention(nn.Module):
  """Multi-head self-attention with biases."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'batch n width'], causal: bool) -> Float[Array, 'batch n width']:
    width, heads = self.config.hidden_size, self.config.num_attention_heads
    split = lambda y: y.reshape(*y.shape[:-1], heads, width // heads)  # noqa: E731
    query, key, value = (split(nn.Dense(width, name=f'{name}_proj')(x)) for name in 'qkv')
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=causal)
    return nn.Dense(width, name='out_proj')(mixed.reshape(x.shape))


class Mlp(nn.Module):
  """The feed-forward of a block."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x: Float[Array, '*n width']) -> Float[Array, '*n width']:
    inner = ACTIVATIONS[self.config.hidden_act](nn.Dense(self.config.intermediate_size, name='fc1')(x))
    return nn.Dense(self.config.hidden_size, name='fc2')(inner)


def norm(config: TowerConfig, name: str) -> nn.LayerNorm:
  """A layer norm; the variance is not computed from squares, which loses digits."""
  return nn.LayerNorm(config.layer_norm_eps, use_fast_variance=False, name=name)


class Block(nn.Module):
  """x + attention, x + feed-forward."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'batch n width'], causal: bool) -> Float[Array, 'batch n width']:
    x = x + Attention(self.config, name='self_attn')(norm(self.config, 'layer_norm1')(x), causal)
    return x + Mlp(self.config, name='mlp')(norm(self.config, 'layer_norm2')(x))


class Tower(nn.Module):
  """All blocks."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'batch n width'], causal: bool = False) -> Float[Array, 'batch n width']:
    for n in range(self.config.num_hidden_layers):
      x = Block(self.config, name=f'layers_{n}')(x, causal)
    return x


class Embeddings(nn.Module):
  """Patches of a picture with their positions, and CLIP's class token before them."""

  config: TowerConfig
  class_token: bool

  @nn.compact
  def __call__(self, pictures: Float[Array, 'batch height width 3']) -> Float[Array, 'batch n width']:
    width, side = self.config.hidden_size, self.config.patch_size
    patch = nn.Conv(width, (side, side), side, 'VALID', use_bias=not self.class_token, name='patch_embedding')
    x = patch(pictures).reshape(pictures.shape[0], -1, width)
    if self.class_token:
      token = self.param('class_embedding', nn.initializers.zeros, (width,))
      x = jnp.concatenate([jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, width)), x], 1)
    count = (self.config.image_size // side) ** 2 + self.class_token
    return x + nn.Embed(count, width, name='position_embedding')(jnp.arange(count))


class TextEmbeddings(nn.Module):
  """Tokens with their positions."""

  config: TowerConfig

  @nn.compact
  def __call__(self, tokens: Array) -> Float[Array, 'batch n width']:
    width = self.config.hidden_size
    words = nn.Embed(self.config.vocab_size, width, name='token_embedding')(tokens)
    places = nn.Embed(self.config.max_position_embeddings, width, name='position_embedding')
    return words + places(jnp.arange(tokens.shape[1]))


class AttentionPool(nn.Module):
  """SigLIP's pooling: one learned query over all patches, and a feed-forward."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x: Float[Array, 'batch n width']) -> Float[Array, 'batch width']:
    width, heads = self.config.hidden_size, self.config.num_attention_heads
    probe = self.param('probe', nn.initializers.zeros, (1, 1, width))
    made = ProbeAttention(width, heads, name='attention')(jnp.broadcast_to(probe, (x.shape[0], 1, width)), x)
    return (made + Mlp(self.config, name='mlp')(norm(self.config, 'layernorm')(made)))[:, 0]


class ProbeAttention(nn.Module):
  """PyTorch's MultiheadAttention, which has one array for query, key and value."""

  width: int
  heads: int

  @nn.compact
  def __call__(self, query: Array, x: Array) -> Array:
    weight = self.param('in_proj_weight', nn.initializers.zeros, (3 * self.width, self.width))
    bias = self.param('in_proj_bias', nn.initializers.zeros, (3 * self.width,))
    parts = zip((query, x, x), jnp.split(weight, 3), jnp.split(bias, 3), strict=True)
    split = lambda y: y.reshape(*y.shape[:2], self.heads, self.width // self.heads)  # noqa: E731
    mixed = jax.nn.dot_product_attention(*(split(y @ w.T + b) for y, w, b in parts))
    return nn.Dense(self.width, name='out_proj')(mixed.reshape(query.shape))


def normalised(
  pictures: Array, mean: tuple[float, ...], deviation: tuple[float, ...], dtype: Any
) -> Float[Array, '*n 3']:
  """uint8 pictures as networks for them expect: of the range 0 to 1, less the mean, over the deviation."""
  scaled = pictures.astype(jnp.float32) / 255
  return ((scaled - jnp.array(mean)) / jnp.array(deviation)).astype(dtype)


def is_end(tokens: Array, end: int) -> Bool[Array, 'batch n']:
  """Where CLIP's texts end: at the greatest id where the configuration says 2, else at the first `end`."""
  return tokens == (tokens.max(1, keepdims=True) if end == 2 else end)
