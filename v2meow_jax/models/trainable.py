"""How a stage is trained: its state, one step and its evaluation, as `training.protocols.Trainable`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import gin
from v2meow_jax import description, errors, linen
from v2meow_jax.models import conditioning
from v2meow_jax.models import layout as layout_lib
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.partitioning import constrain
from v2meow_jax.stages import Stage
from v2meow_jax.streams import DATASET
from v2meow_jax.training.optimizers import rate_metric


def token_losses(logits: Float[Array, '*n codes'], tokens: Array) -> Float[Array, '*n']:
  """Cross-entropy of each token in nats."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, tokens)


@gin.register
@dataclasses.dataclass(frozen=True)
class StageTrainable:
  """Next-token training of a stage; the loss is the mean over tokens, in nats.

  Attributes:
    stage: streams, target and crop.
    config: of the Transformer.
    optimizer: of the parameters.
    z_loss: weight of the mean squared logarithm of the softmax's denominator, which keeps logits from
      drifting (PaLM, arXiv 2204.02311, section 5, has 1e-4).
    microbatches: parts in which a batch is run one after the other, to save memory; the gradient is that
      of the whole batch.
    ema_decay: of a moving average of the parameters, which then is what is evaluated and exported; 0: none.
    blanking: share of the target's tokens that training hides from the steps after them, so that small data
      is learned by heart later.
  """

  stage: Stage
  config: TransformerConfig
  optimizer: optax.GradientTransformation
  z_loss: float = 0.0
  microbatches: int = 1
  ema_decay: float = 0.0
  blanking: float = 0.0

  def __post_init__(self):
    if self.microbatches < 1 or not 0 <= self.ema_decay < 1 or self.z_loss < 0 or not 0 <= self.blanking < 1:
      raise errors.ConfigError(
        'StageTrainable: microbatches must be at least 1, ema_decay and blanking in [0, 1) and z_loss not '
        'negative'
      )

  @property
  def model(self) -> StageModel:
    """The network."""
    return StageModel(self.stage, self.config)

  @property
  def layout(self) -> str:
    """How layers lie in the state; see `models.layout`."""
    return self.config.layout

  def with_layout(self, layout: str) -> 'StageTrainable':
    """The same with states in another layout."""
    config = dataclasses.replace(self.config, scan_layers=layout == 'scanned')
    return dataclasses.replace(self, config=config)

  def relayout(self, tree, layout: str):
    """A state, or a part of it, with its layers in another layout."""
    if layout == 'scanned':
      return layout_lib.to_scanned(tree)
    return layout_lib.to_unrolled(tree, self.config.layers)

  def init(self, rng: Array, batch: dict) -> dict:
    """The state of step 0; parameters are boxed with their logical axes.

    A seed's parameters do not depend on the layout: they are made unrolled, then stacked.
    """
    small = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), batch)
    config = dataclasses.replace(self.config.for_inference(), attention='xla')  # no work for a kernel
    params = StageModel(self.stage, config).init(rng, small)['params']
    params = self.relayout(params, self.layout)
    state = {'step': jnp.zeros((), jnp.int32), 'params': params, 'opt_state': self.optimizer.init(params)}
    # A copy, so that no two parts of the state are one buffer.
    return state | ({'ema': jax.tree.map(jnp.copy, params)} if self.ema_decay else {})

  def _tokens(self, batch: dict) -> tuple[Array, Array]:
    """(tokens [batch, frames, depth], weights [batch, frames, 1])."""
    target = self.stage.target
    tokens = batch[target.stream.name][..., slice(*target.span)]
    return tokens, batch[f'{target.stream.name}/mask'][..., None].astype(linen.real())

  def _sums(self, logits: Array, batch: dict) -> dict[str, Array]:
    """Sums over the tokens of a batch, by codebook level [depth]."""
    tokens, weights = self._tokens(batch)
    losses = token_losses(logits, tokens)
    weights = jnp.broadcast_to(weights, losses.shape)
    hits = (jnp.argmax(logits, -1) == tokens) * weights
    sums = {'tokens': weights, 'loss': losses * weights, 'hits': hits}
    if self.z_loss:
      sums['z'] = jax.nn.logsumexp(logits, -1) ** 2 * weights
    for key in (key for key in batch if key.startswith(DATASET)):
      mine = weights * batch[key][:, None, None]
      sums |= {f'tokens {key}': mine, f'loss {key}': losses * mine}
    return {name: jnp.sum(value, (0, 1)) for name, value in sums.items()}

  def _metrics(self, sums: dict[str, Array]) -> dict[str, Array]:
    """Means from sums: loss in nats, accuracy, and both by level; bits a second of audio."""
    target, levels = self.stage.target, jnp.maximum(sums['tokens'], 1.0)
    total = jnp.maximum(jnp.sum(sums['tokens']), 1.0)
    loss = jnp.sum(sums['loss']) / total
    metrics = {
      'loss': loss,
      'accuracy': jnp.sum(sums['hits']) / total,
      'bits_per_second': loss / np.log(2) * float(target.stream.rate) * target.depth,
    }
    if self.z_loss:
      metrics['z_loss'] = self.z_loss * jnp.sum(sums['z']) / total
    if target.depth > 1:
      for k in range(target.depth):
        level = target.span[0] + k
        metrics[f'loss_level_{level}'] = sums['loss'][k] / levels[k]
        metrics[f'accuracy_level_{level}'] = sums['hits'][k] / levels[k]
    for key in (key.removeprefix('tokens ') for key in sums if key.startswith(f'tokens {DATASET}')):
      # Not a number where a batch has none of a dataset: means over steps pass it over.
      metrics[f'loss_{key}'] = jnp.sum(sums[f'loss {key}']) / jnp.sum(sums[f'tokens {key}'])
    return metrics

  def loss_fn(self, params, batch: dict, rng: Array) -> tuple[Array, dict]:
    """Mean loss with conditions dropped, tokens blanked and dropout; T5X's name."""
    drop_key, dropout_key = jax.random.split(rng)
    batch = conditioning.vary(self.stage, jax.random.fold_in(drop_key, 2), batch)
    loss, sums = self._part_loss(
      params, batch, self._draw_hidden(batch, drop_key), dropout_key, self._count(batch)
    )
    return loss, self._metrics(sums)

  def _count(self, batch: dict) -> Array:
    tokens, weights = self._tokens(batch)
    return jnp.maximum(jnp.sum(weights) * tokens.shape[-1], 1.0)

  def _draw_hidden(self, batch: dict, key: Array) -> tuple[Array | None, Array | None]:
    """Conditions that are dropped [batch, conditions], and tokens that are blanked; None where none is."""
    stage, size = self.stage, batch[self.stage.target.stream.name].shape[0]
    dropped = conditioning.draw_dropped(stage, key, size) if stage.conditions else None
    if not self.blanking:
      return dropped, None
    shape = (size, stage.steps - 1, stage.step_tokens)
    return dropped, jax.random.uniform(jax.random.fold_in(key, 1), shape) < self.blanking

  def _part_loss(self, params, batch: dict, hidden, dropout_key: Array, total: Array):
    """What a part of a batch adds to the loss of the whole, of `total` tokens; and its sums."""
    dropped, blanked = hidden
    logits = linen.call(self.model, params, batch, dropped, False, blanked, rngs={'dropout': dropout_key})
    sums = self._sums(logits, batch)
    loss = jnp.sum(sums['loss']) / total
    if self.z_loss:
      loss += self.z_loss * jnp.sum(sums['z']) / total
    return loss, sums

  def _gradients(self, params, batch: dict, rng: Array) -> tuple[Any, dict]:
    """Gradient of `loss_fn`, run in microbatches, and the metrics of the whole batch."""
    drop_key, dropout_key = jax.random.split(rng)
    batch = conditioning.vary(self.stage, jax.random.fold_in(drop_key, 2), batch)
    total, hidden = self._count(batch), self._draw_hidden(batch, drop_key)
    gradient = jax.grad(self._part_loss, has_aux=True)
    parts = self.microbatches
    if parts == 1:
      grads, sums = gradient(params, batch, hidden, dropout_key, total)
      return grads, self._metrics(sums)

    def split(x):
      # Every parts-th example, so that no example leaves its device.
      x = jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
      return constrain(x, None, 'batch', *(None,) * (x.ndim - 2))

    def add(carry, part):
      (some, some_hidden), key = part
      return jax.tree.map(jnp.add, carry, gradient(params, some, some_hidden, key, total)), None

    pieces = jax.tree.map(split, (batch, hidden))
    keys = jax.random.split(dropout_key, parts)
    first = jax.tree.map(lambda x: x[0], (pieces, keys))
    zero = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      jax.eval_shape(lambda part: gradient(params, *part[0], part[1], total), first),
    )
    (grads, sums), _ = jax.lax.scan(add, zero, (pieces, keys))
    return grads, self._metrics(sums)

  def eval_fn(self, params, batch: dict) -> tuple[Array, dict]:
    """Mean loss with all conditions and no dropout; T5X's name."""
    metrics = self._metrics(self._sums(linen.call(self.model, params, batch), batch))
    return metrics['loss'], metrics

  def score_batch(self, params, batch: dict) -> Float[Array, 'batch frames depth']:
    """Log-likelihood of each token in nats, 0 where masked; T5X's name."""
    tokens, weights = self._tokens(batch)
    return -token_losses(linen.call(self.model, params, batch), tokens) * weights

  def step(self, state: dict, batch: dict, rng: Array) -> tuple[dict, dict]:
    """One update."""
    grads, metrics = self._gradients(state['params'], batch, rng)
    updates, opt_state = self.optimizer.update(grads, state['opt_state'], state['params'])
    params = optax.apply_updates(state['params'], updates)
    metrics |= {'grad_norm': optax.global_norm(grads), 'param_norm': optax.global_norm(params)}
    metrics |= rate_metric(self.optimizer, state['step'])
    new = {'step': state['step'] + 1, 'params': params, 'opt_state': opt_state}
    if self.ema_decay:
      new['ema'] = optax.incremental_update(params, state['ema'], 1 - self.ema_decay)
    return new, metrics

  def evaluate(self, state: dict, batch: dict) -> dict:
    """Metrics of a batch; `weight` is its number of frames."""
    _, metrics = self.eval_fn(self._best(state), batch)
    return metrics | {'weight': jnp.sum(self._tokens(batch)[1])}

  def _best(self, state: dict):
    return state['ema'] if self.ema_decay else state['params']

  def tokens(self, batch: dict) -> int:
    """Tokens predicted in a step."""
    return batch[self.stage.target.stream.name].shape[0] * self.stage.frames * self.stage.target.depth

  def flops(self, batch: dict) -> float:
    """Model FLOPs of a step: two a weight and element forward, twice that backward, nothing for remat.

    Attention counts the pairs that are seen: all within the prefix, half of the rest (PaLM's appendix B
    counts the whole square).
    """
    config, stage = self.config, self.stage
    prefix, length = stage.prefix_length, stage.prefix_length + stage.steps
    layer = config.width * (4 * config.width + (3 if config.gated else 2) * config.mlp)
    seen = prefix**2 + (length**2 - prefix**2) / 2
    forward = config.layers * (2 * layer * length + 4 * config.width * seen)
    forward += 2 * config.width * stage.target.stream.codes * stage.frames * stage.target.depth
    return 3.0 * forward * batch[stage.target.stream.name].shape[0]

  def describe(self) -> dict:
    """What an export needs to know besides the state."""
    return {
      'kind': 'stage',
      'stage': description.describe(self.stage),
      'transformer': description.describe(self.config.for_inference()),
    }

  def weights(self, state: dict) -> dict:
    """The part of the state that a bundle holds, unrolled."""
    return self.relayout(self._best(state), 'unrolled')

  def with_weights(self, state: dict, weights: dict) -> dict:
    """A fresh state that begins with these weights."""
    params = self.relayout(weights, self.layout)
    return state | {'params': params} | ({'ema': jax.tree.map(jnp.copy, params)} if self.ema_decay else {})
