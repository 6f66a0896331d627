"""A decoder-only Transformer over a prefix and a causal sequence, with an explicit cache."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors, linen
from v2meow_jax.models import attention, layout
from v2meow_jax.models import cache as cache_lib
from v2meow_jax.models.cache import Cache, LayerCache
from v2meow_jax.models.linear import Linear
from v2meow_jax.partitioning import constrain

POSITIONS = ('rope', 'relative')
DTYPES = ('float32', 'bfloat16', 'float64')

# What the gradient of a layer keeps of its forward pass instead of computing it again; T5X's names.
REMAT = {
  'none': None,
  'minimal': jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
  'full': jax.checkpoint_policies.nothing_saveable,
}


@gin.register
@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Settings of the network.

  Attributes:
    layers: their number.
    width: of the residual stream.
    heads: attention heads; their dimension is width / heads.
    mlp: width of the feed-forward layer.
    gated: the feed-forward layer has a gate: gelu(gate(x)) * up(x) instead of gelu(up(x)).
    positions: `rope` (rotary) or `relative` (T5's bucketed bias, one table for all layers).
    time_aligned: rotary positions are times, so that a video frame and a token of the same instant
      carry the same one; otherwise they count elements of the sequence. `rope` only.
    causal_buckets: all 32 buckets of relative positions are for keys before the query, as in T5's and T5X's
      decoders; otherwise half of them. `relative` only.
    qk_norm: RMS normalisation of queries and keys.
    dropout: on embeddings and on each branch before it is added.
    dtype: of activations, `float32` or `bfloat16`; parameters, norms, softmax and loss are float32
      (`float64` makes those float64 too, where JAX has it enabled: for comparing meshes).
    attention: `auto`, `xla`, `cudnn` or `splash`; see `attention.prefix_causal`.
    scan_layers: one compiled layer run over stacked parameters: compiles faster, decodes slower.
    remat: what is computed again for the gradient: `none`, `minimal` (all but matrix products) or `full`.
    transposed: kernels of head and layers are [out, in]: for decoding on CPUs; see `products.product`.
  """

  layers: int = 24
  width: int = 1024
  heads: int = 16
  mlp: int = 4096
  gated: bool = True
  positions: str = 'rope'
  time_aligned: bool = True
  qk_norm: bool = True
  dropout: float = 0.0
  dtype: str = 'float32'
  attention: str = 'auto'
  scan_layers: bool = False
  remat: str = 'none'
  transposed: bool = False
  causal_buckets: bool = False

  def __post_init__(self):
    if min(self.layers, self.width, self.heads, self.mlp) < 1:
      raise errors.ConfigError('transformer: layers, width, heads and mlp must be positive')
    if self.width % (2 * self.heads):
      raise errors.ConfigError(
        f'transformer: width {self.width} is not a multiple of twice the {self.heads} heads'
      )
    if self.positions not in POSITIONS:
      raise errors.ConfigError(
        f'transformer: positions {self.positions!r} is not one of {", ".join(POSITIONS)}'
      )
    if self.time_aligned and self.positions != 'rope':
      raise errors.ConfigError('transformer: time_aligned needs positions "rope"')
    if self.causal_buckets and self.positions != 'relative':
      raise errors.ConfigError('transformer: causal_buckets needs positions "relative"')
    if not 0 <= self.dropout < 1:
      raise errors.ConfigError(f'transformer: dropout {self.dropout} is not in [0, 1)')
    for name, choices in (('dtype', DTYPES), ('attention', attention.IMPLEMENTATIONS), ('remat', REMAT)):
      if getattr(self, name) not in choices:
        raise errors.ConfigError(
          f'transformer: {name} {getattr(self, name)!r} is not one of {", ".join(choices)}'
        )

  @property
  def layout(self) -> str:
    """How the layers lie in a tree of parameters; see `models.layout`."""
    return 'scanned' if self.scan_layers else 'unrolled'

  def for_inference(self) -> 'TransformerConfig':
    """The same network without what only training needs: layers unrolled, nothing computed twice."""
    return dataclasses.replace(self, scan_layers=False, remat='none')


@jax.checkpoint
def gelu(x: Float[Array, '*n']) -> Float[Array, '*n']:
  """GELU by its approximation with tanh (Hendrycks and Gimpel 2016), in float32 or wider.

  Of it the gradient keeps `x` alone. In bfloat16 CPUs would round after each of its steps.
  """
  return nn.gelu(attention.wide(x)).astype(x.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square normalisation with a learned scale (Zhang and Sennrich 2019), in float32."""

  axis: str | None = 'embed'

  @nn.compact
  def __call__(self, x: Float[Array, '*b d']) -> Float[Array, '*b d']:
    scale = linen.parameter(self, 'scale', nn.initializers.ones, (self.axis,), (x.shape[-1],))
    wide = attention.wide(x)
    wide *= jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
    return (wide * scale).astype(x.dtype)


class Layer(nn.Module):
  """Attention and a gated feed-forward network, each normalised before and added after."""

  config: TransformerConfig

  def setup(self):
    config = self.config
    # Branches start small enough that the residual stream's variance does not grow with depth.
    small = 1 / (2 * config.layers)
    self.attention_norm, self.mlp_norm = RMSNorm(), RMSNorm()
    linear = functools.partial(Linear, transposed=config.transposed)
    self.query, self.key, self.value = (linear(config.width, ('embed', 'heads')) for _ in range(3))
    self.out = linear(config.width, ('heads', 'embed'), small)
    if config.qk_norm:
      self.query_norm, self.key_norm = RMSNorm('kv'), RMSNorm('kv')
    if config.gated:
      self.gate = linear(config.mlp, ('embed', 'mlp'))
    self.up = linear(config.mlp, ('embed', 'mlp'))
    self.down = linear(config.width, ('mlp', 'embed'), small)
    self.dropout = nn.Dropout(config.dropout)

  def _qkv(self, x, turns):
    shape = (*x.shape[:2], self.config.heads, -1)
    x = self.attention_norm(x)
    q, k, v = (
      constrain(f(x).reshape(shape), 'batch', 'length', 'heads', 'kv')
      for f in (self.query, self.key, self.value)
    )
    # Rounded once, at the end.
    q, k = attention.wide(q), attention.wide(k)
    if self.config.qk_norm:
      q, k = self.query_norm(q), self.key_norm(k)
    if turns is not None:
      q, k = attention.rotate(q, turns), attention.rotate(k, turns)
    return q.astype(v.dtype), k.astype(v.dtype), v

  def _finish(self, x, attended, deterministic):
    attended = attended.reshape(*x.shape[:2], -1)
    x = x + self.dropout(self.out(attended), deterministic=deterministic)
    y = self.mlp_norm(x)
    y = gelu(self.gate(y)) * self.up(y) if self.config.gated else gelu(self.up(y))
    y = self.down(constrain(y, 'batch', 'length', 'mlp'))
    return constrain(x + self.dropout(y, deterministic=deterministic), 'batch', 'length', 'embed')

  def __call__(self, x, turns, prefix: int, bias, deterministic: bool):
    q, k, v = self._qkv(x, turns)
    attended = attention.prefix_causal(q, k, v, prefix, bias, self.config.attention)
    return self._finish(x, attended, deterministic), (k, v)

  def step(self, x, turns, cache: LayerCache, count, bias):
    q, k, v = (jnp.swapaxes(y, 1, 2) for y in self._qkv(x, turns))
    cache = cache_lib.append(cache, (k, v), count)
    attended = attention.decode(q, cache, count + 1, bias)
    return self._finish(x, jnp.swapaxes(attended, 1, 2), True), cache


class Transformer(nn.Module):
  """The stack of layers; embeddings and heads are the stage model's.

  A layer is called as a function of its parameters, so that one and the same code runs them one after
  the other or by a scan, with or without computing them again for the gradient.
  """

  config: TransformerConfig

  def setup(self):
    config = self.config
    self.layer = Layer(config, parent=None)
    if config.scan_layers:

      def stacked(rng):
        layers = {
          f'layer_{i}': self._init_layer(key) for i, key in enumerate(jax.random.split(rng, config.layers))
        }
        return layout.to_scanned(layers)['layers']

      self.layers = self.param('layers', stacked)
    else:
      # Named one by one: a checkpoint reads layer_0, layer_1, ...
      names = [f'layer_{i}' for i in range(config.layers)]
      there = self.has_variable('params', names[0])
      self.layers = [
        linen.given(self, name) if there else self.param(name, self._init_layer) for name in names
      ]
    self.norm = RMSNorm()
    self.dropout = nn.Dropout(config.dropout)
    if config.positions == 'relative':
      init = nn.initializers.normal(0.1)
      self.relative = linen.parameter(
        self, 'relative_bias', init, ('relpos_buckets', 'heads'), (32, config.heads)
      )

  def _init_layer(self, rng):
    one = jnp.zeros((1, 1, self.config.width))
    # One example of one element is no work for a kernel, which might not even take it.
    layer = Layer(dataclasses.replace(self.config, attention='xla'), parent=None)
    return layer.init(rng, one, None, 0, None, True)['params']

  def _bias(self):
    if self.config.positions != 'relative':
      return None
    table, after = self.relative, not self.config.causal_buckets

    def bias(rows, columns):
      bucket = attention.relative_bucket(columns[None, :] - rows[:, None], after=after)
      return jnp.moveaxis(table[bucket], -1, 0)

    return bias

  def _turns(self, positions):
    config = self.config
    if config.positions != 'rope':
      return None
    return attention.turns(positions, config.width // config.heads, config.dtype)

  def __call__(
    self,
    x: Float[Array, 'batch length width'],
    positions: Float[Array, 'batch length'],
    prefix: int,
    deterministic: bool = True,
  ) -> Float[Array, 'batch length width']:
    """Outputs of the whole sequence."""
    return self._run(x, positions, prefix, deterministic, keep=False)[0]

  def prefill(
    self, x: Float[Array, 'batch length width'], positions: Float[Array, 'batch length'], prefix: int
  ) -> tuple[Float[Array, 'batch length width'], list[LayerCache]]:
    """Outputs of the whole sequence, and every layer's keys and values, [batch, heads, length, d]."""
    x, layers = self._run(x, positions, prefix, deterministic=True, keep=True)
    return x, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 1, 2), layers)

  def _run(self, x, positions, prefix: int, deterministic: bool, keep: bool):
    config, bias, turns, cache = self.config, self._bias(), self._turns(positions), []
    x = constrain(
      self.dropout(x.astype(config.dtype), deterministic=deterministic), 'batch', 'length', 'embed'
    )
    random = not deterministic and config.dropout > 0
    keys = jax.random.split(self.make_rng('dropout'), config.layers) if random else [None] * config.layers

    def run(x, params, key):
      rngs = {} if key is None else {'dropout': key}
      x, kv = linen.call(self.layer, params, x, turns, prefix, bias, deterministic, rngs=rngs)
      return x, kv if keep else None

    if config.remat != 'none':
      # Inside a scan, common subexpressions are no danger to what is meant to be computed twice.
      run = jax.checkpoint(run, policy=REMAT[config.remat], prevent_cse=not config.scan_layers)
    if config.scan_layers:
      scanned = (self.layers, keys) if random else (self.layers, None)
      x, kv = jax.lax.scan(lambda x, layer: run(x, *layer), x, scanned)
      cache = [(kv[0][i], kv[1][i]) for i in range(config.layers)] if kv is not None else []
    else:
      if keep:
        run = jax.jit(run)  # all layers are traced as one
      for params, key in zip(self.layers, keys, strict=True):
        x, kv = run(x, params, key)
        cache.append(kv)
    return self.norm(x), cache

  def step(
    self, x: Float[Array, 'batch 1 width'], positions: Float[Array, 'batch 1'], cache: Cache
  ) -> tuple[Float[Array, 'batch 1 width'], Cache]:
    """Output of one more element, and the cache with it."""
    x = x.astype(self.config.dtype)
    bias, turns, new, layers = self._bias(), self._turns(positions), [], self.layers
    if self.config.scan_layers:
      layers = [jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(self.config.layers)]

    @jax.jit  # all layers are traced as one
    def run(x, params, layer):
      return linen.call(self.layer, params, x, turns, layer, cache.count, bias, method='step')

    for params, layer in zip(layers, cache.layers, strict=True):
      x, layer = run(x, params, layer)
      new.append(layer)
    return self.norm(x), cache._replace(layers=new, count=cache.count + 1)
