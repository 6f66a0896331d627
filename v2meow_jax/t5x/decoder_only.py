"""T5X's decoder-only network as a stage, and a stage as it: converted exactly, or refused by name.

The network is that of t5x/examples/decoder_only/network.py. It and a stage with relative positions differ so:

- its attention does not scale scores, so its queries are a stage's divided by sqrt(head dimension);
- its relative positions are one table [heads, 32] of buckets for the past (`causal_buckets`);
- its vocabulary is one table; a stage has a slice a codebook level, and no place for padding and end;
- a sequence begins with token 0, a stage's with a vector of its own;
- tied logits are divided by sqrt(width).
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from v2meow_jax import errors
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Stage

# A stage's layer -> T5X's.
LAYER = {
  'attention_norm/scale': 'pre_self_attention_layer_norm/scale',
  'query/kernel': 'self_attention/query/kernel',
  'key/kernel': 'self_attention/key/kernel',
  'value/kernel': 'self_attention/value/kernel',
  'out/kernel': 'self_attention/out/kernel',
  'mlp_norm/scale': 'pre_mlp_layer_norm/scale',
  'down/kernel': 'mlp/wo/kernel',
}
GATED = {'gate/kernel': 'mlp/wi_0/kernel', 'up/kernel': 'mlp/wi_1/kernel'}
PLAIN = {'up/kernel': 'mlp/wi/kernel'}
# T5X's `mlp_activations`, which no checkpoint holds -> whether a stage's feed-forward layer is gated.
ACTIVATIONS = {('gelu', 'linear'): True, ('gelu',): False}
# What a stage's Transformer must have to be T5X's.
SETTINGS = {
  'positions': 'relative', 'causal_buckets': True, 'time_aligned': False, 'qk_norm': False,
  'transposed': False,
}  # fmt: skip

EMBEDDING = 'decoder/token_embedder/embedding'
LOGITS = 'decoder/logits_dense/kernel'
BIAS = 'decoder/relpos_bias/rel_embedding'


@dataclasses.dataclass(frozen=True)
class Network:
  """What the shapes of a checkpoint say of the network.

  Attributes:
    layers, width, heads, mlp: as in `TransformerConfig`.
    joined: heads times their dimension, which in T5X need not be the width.
    gated: whether the feed-forward layer has a gate.
    vocabulary: rows of the token embedding.
    tied: whether that is also the head.
  """

  layers: int
  width: int
  heads: int
  joined: int
  mlp: int
  gated: bool
  vocabulary: int
  tied: bool


def is_decoder_only(names: Any) -> bool:
  """Whether the parameters with these names are of a T5X network with a decoder; a stage has none."""
  return any(name.startswith(('decoder/', 'encoder/')) for name in names)


def look(arrays: Mapping[str, Any]) -> Network:
  """The network that parameters are of, by their shapes.

  Raises:
    errors.BundleError: it is not T5X's decoder-only network, or a part of it is missing.
  """
  other = next((n for n in arrays if n.startswith('encoder/') or 'encoder_decoder_attention' in n), None)
  if other is not None:
    raise errors.BundleError(f'it is an encoder-decoder ({other}); a stage is a decoder alone')
  numbers = {int(found[1]) for name in arrays if (found := re.match(r'decoder/layers_(\d+)/', name))}
  if not numbers:
    inner = next(n for n in arrays if n.startswith('decoder/'))
    raise errors.BundleError(
      f'there is no decoder/layers_0 (but {inner}); only the network of t5x/examples/decoder_only is known'
    )
  gated = 'decoder/layers_0/mlp/wi_0/kernel' in arrays
  needed = [EMBEDDING, BIAS, 'decoder/decoder_norm/scale']
  needed += [theirs for i in range(max(numbers) + 1) for theirs in layer_names(i, gated).values()]
  for name in needed:
    if name not in arrays:
      raise errors.BundleError(f'there is no {name}; the checkpoint is partial or of another network')
  inside = 'wi_1' if gated else 'wi'
  width, joined = arrays['decoder/layers_0/self_attention/query/kernel'].shape
  return Network(
    layers=max(numbers) + 1,
    width=width,
    heads=arrays[BIAS].shape[0],
    joined=joined,
    mlp=arrays[f'decoder/layers_0/mlp/{inside}/kernel'].shape[1],
    gated=gated,
    vocabulary=arrays[EMBEDDING].shape[0],
    tied=LOGITS not in arrays,
  )


def layer_names(number: int, gated: bool) -> dict[str, str]:
  """Full name of every array of one of our layers -> T5X's."""
  names = LAYER | (GATED if gated else PLAIN)
  return {
    f'transformer/layer_{number}/{ours}': f'decoder/layers_{number}/{theirs}'
    for ours, theirs in names.items()
  }


def check(
  network: Network, stage: Stage, config: TransformerConfig, activations: Sequence[str] | None, offset: int
) -> None:
  """Refuses what would load and not be the same network.

  Args:
    network: T5X's.
    stage, config: what it is to become.
    activations: T5X's `mlp_activations`; None: not known.
    offset: the token that is code 0 of the target's first level.

  Raises:
    errors.BundleError: it cannot be the same; every setting that differs is named.
  """
  if activations is None:
    raise errors.BundleError(
      'a checkpoint does not say what its feed-forward layers compute; add --mlp_activations, such as '
      'gelu,linear, as in the T5Config or TransformerConfig it was trained with'
    )
  if ACTIVATIONS.get(tuple(activations)) != network.gated:
    known = ' or '.join(','.join(kind) for kind, gated in ACTIVATIONS.items() if gated == network.gated)
    raise errors.BundleError(
      f'mlp_activations {",".join(activations)}: with these shapes a stage computes {known} only'
    )
  if network.joined != network.width:
    raise errors.BundleError(
      f'its heads are {network.joined} wide in all and its embeddings {network.width}; a stage has one width'
    )
  sizes = {name: getattr(network, name) for name in ('layers', 'width', 'heads', 'mlp', 'gated')}
  differ = {name: value for name, value in (sizes | SETTINGS).items() if getattr(config, name) != value}
  if differ:
    told = ' '.join(f'--gin.TransformerConfig.{name}={value!r}' for name, value in differ.items())
    raise errors.BundleError(f'this stage is another network; it would be the same with {told}')
  _check_pattern(stage)
  target = stage.target
  needed = offset + target.depth * target.stream.codes
  if not offset >= 0 or needed > network.vocabulary:
    raise errors.BundleError(
      f'its vocabulary has {network.vocabulary} tokens; {target.depth} levels of {target.stream.codes} codes '
      f'from token {offset} on are {needed}'
    )


def _check_pattern(stage: Stage) -> None:
  if stage.target.pattern != 'flatten':
    raise errors.BundleError(
      f'the target has pattern {stage.target.pattern!r}, whose steps hold several tokens; T5X has one a step'
    )


def to_stage(
  arrays: Mapping[str, np.ndarray], network: Network, stage: Stage, offset: int = 0
) -> dict[str, np.ndarray]:
  """A stage's arrays by name, but for those of its conditions; call `check` first.

  Logits of the stage's codes are then T5X's of the same tokens; the softmax is over one level's codes, where
  T5X's is over the whole vocabulary. Queries times sqrt(head dimension) are rounded unless that is a power
  of two.

  Args:
    arrays: T5X's parameters.
    network: what `look` says of them.
    stage: whose target it is to predict.
    offset: the token that is code 0 of the target's first level.
  """
  made = {}
  for number in range(network.layers):
    for ours, theirs in layer_names(number, network.gated).items():
      made[ours] = arrays[theirs]
      if ours.endswith('query/kernel'):
        scale = np.sqrt(network.joined / network.heads)
        made[ours] = (arrays[theirs].astype(np.float64) * scale).astype(arrays[theirs].dtype)
  depth, codes = stage.target.depth, stage.target.stream.codes
  rows = slice(offset, offset + depth * codes)
  table = arrays[EMBEDDING]
  head = arrays[LOGITS] if not network.tied else table.T / np.sqrt(network.width).astype(np.float32)
  made['transformer/norm/scale'] = arrays['decoder/decoder_norm/scale']
  made['transformer/relative_bias'] = np.ascontiguousarray(arrays[BIAS].T)
  made['first'] = table[0]  # T5X's sequences begin with token 0
  made['embedding'] = table[rows].reshape(depth, codes, -1)
  made['head'] = np.ascontiguousarray(np.moveaxis(head[:, rows].reshape(-1, depth, codes), 1, 0))
  return made


def check_stage(stage: Stage, config: TransformerConfig) -> None:
  """Refuses a stage that is another network than T5X's.

  Raises:
    errors.BundleError: what T5X's has no place for, by its name.
  """
  differ = {name: value for name, value in SETTINGS.items() if getattr(config, name) != value}
  if differ:
    told = ' '.join(f'TransformerConfig.{name}={value!r}' for name, value in differ.items())
    raise errors.BundleError(f"T5X's decoder-only network is another; it is that of a stage with {told}")
  if stage.conditions:
    told = ', '.join(condition.stream.name for condition in stage.conditions)
    raise errors.BundleError(f"the stage has conditions ({told}), and T5X's decoder-only network has none")
  _check_pattern(stage)


def from_stage(
  weights: Mapping[str, np.ndarray], stage: Stage, config: TransformerConfig, offset: int = 0
) -> dict[str, np.ndarray]:
  """T5X's arrays of a stage; call `check_stage` first. Inverse of `to_stage` of a head of its own.

  Tokens before `offset` are T5X's alone: the first is what a sequence begins with, and the others are zeros.
  T5X's logits of all others are the stage's.

  Args:
    weights: of the stage, its layers unrolled.
    stage, config: of them.
    offset: the token that is to be code 0 of the target's first level.

  Raises:
    errors.BundleError: there is an array that T5X has no place for, or what a sequence begins with cannot be
      token 0.
  """
  made, left = {}, set(weights) - {'first', 'embedding', 'head', 'transformer/relative_bias'}
  scale = np.sqrt(config.width / config.heads)
  for number in range(config.layers):
    for ours, theirs in layer_names(number, config.gated).items():
      made[theirs] = weights[ours]
      if ours.endswith('query/kernel'):
        made[theirs] = (weights[ours].astype(np.float64) / scale).astype(weights[ours].dtype)
      left.discard(ours)
  made['decoder/decoder_norm/scale'] = weights['transformer/norm/scale']
  left.discard('transformer/norm/scale')
  if left:
    raise errors.BundleError(f"T5X's decoder-only network has no place for {min(left)}")
  made[BIAS] = np.ascontiguousarray(weights['transformer/relative_bias'].T)
  width, kind = config.width, weights['embedding'].dtype
  table = weights['embedding'].reshape(-1, width)
  head = np.moveaxis(weights['head'], 0, 1).reshape(width, -1)
  if offset:
    # Beginning, padding and end of T5X's vocabularies, of which a stage has only the first.
    before = np.zeros((offset, width), kind)
    before[0] = weights['first']
    table = np.concatenate([before, table])
    head = np.concatenate([np.zeros((width, offset), kind), head], 1)
  elif not np.array_equal(table[0], weights['first']):
    raise errors.BundleError(
      "T5X's sequences begin with token 0, and this stage's with another vector than its code 0 has; add "
      '--token_offset=1, which makes it a token of its own'
    )
  made[EMBEDDING], made[LOGITS] = table, np.ascontiguousarray(head)
  return made


def settings_of(stage: Stage, config: TransformerConfig, offset: int) -> dict[str, Any]:
  """T5X's `network.TransformerConfig` of what `from_stage` makes, by its names."""
  activations = next(names for names, gated in ACTIVATIONS.items() if gated == config.gated)
  return {
    'vocab_size': offset + stage.target.depth * stage.target.stream.codes,
    'emb_dim': config.width,
    'num_heads': config.heads,
    'num_layers': config.layers,
    'head_dim': config.width // config.heads,
    'mlp_dim': config.mlp,
    'mlp_activations': activations,
    'logits_via_embedding': False,
  }
