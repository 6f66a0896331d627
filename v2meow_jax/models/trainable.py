"""How a stage is trained: its state, one step and its evaluation, as `training.protocols.Trainable`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

import gin
from v2meow_jax import description, linen
from v2meow_jax.models import conditioning
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Stage


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
  """

  stage: Stage
  config: TransformerConfig
  optimizer: optax.GradientTransformation

  @property
  def model(self) -> StageModel:
    """The network."""
    return StageModel(self.stage, self.config)

  def init(self, rng: Array, batch: dict) -> dict:
    """The state of step 0; parameters are boxed with their logical axes."""
    small = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), batch)
    params = self.model.init(rng, small)['params']
    return {'step': jnp.zeros((), jnp.int32), 'params': params, 'opt_state': self.optimizer.init(params)}

  def _tokens(self, batch: dict) -> tuple[Array, Array]:
    """(tokens [batch, frames, depth], weights [batch, frames, 1])."""
    target = self.stage.target
    tokens = batch[target.stream.name][..., slice(*target.span)]
    return tokens, batch[f'{target.stream.name}/mask'][..., None].astype(jnp.float32)

  def _metrics(self, logits: Array, batch: dict) -> tuple[Array, dict]:
    tokens, weights = self._tokens(batch)
    losses = token_losses(logits, tokens)
    weights = jnp.broadcast_to(weights, losses.shape)
    total = jnp.maximum(jnp.sum(weights), 1.0)
    loss = jnp.sum(losses * weights) / total
    hits = (jnp.argmax(logits, -1) == tokens) * weights
    metrics = {
      'loss': loss,
      'accuracy': jnp.sum(hits) / total,
      'bits_per_second': loss / np.log(2) * float(self.stage.target.stream.rate) * self.stage.target.depth,
    }
    if self.stage.target.depth > 1:
      by_level = jnp.sum(losses * weights, (0, 1)) / jnp.maximum(jnp.sum(weights, (0, 1)), 1.0)
      start = self.stage.target.span[0]
      metrics |= {f'loss_level_{start + k}': by_level[k] for k in range(self.stage.target.depth)}
    return loss, metrics

  def loss_fn(self, params, batch: dict, rng: Array) -> tuple[Array, dict]:
    """Mean loss with conditions dropped and dropout; T5X's name."""
    drop_key, dropout_key = jax.random.split(rng)
    size = batch[self.stage.target.stream.name].shape[0]
    dropped = conditioning.draw_dropped(self.stage, drop_key, size) if self.stage.conditions else None
    logits = linen.call(self.model, params, batch, dropped, False, rngs={'dropout': dropout_key})
    return self._metrics(logits, batch)

  def eval_fn(self, params, batch: dict) -> tuple[Array, dict]:
    """Mean loss with all conditions and no dropout; T5X's name."""
    return self._metrics(linen.call(self.model, params, batch), batch)

  def score_batch(self, params, batch: dict) -> Float[Array, 'batch frames depth']:
    """Log-likelihood of each token in nats, 0 where masked; T5X's name."""
    tokens, weights = self._tokens(batch)
    return -token_losses(linen.call(self.model, params, batch), tokens) * weights

  def step(self, state: dict, batch: dict, rng: Array) -> tuple[dict, dict]:
    """One update."""
    grads, metrics = jax.grad(self.loss_fn, has_aux=True)(state['params'], batch, rng)
    updates, opt_state = self.optimizer.update(grads, state['opt_state'], state['params'])
    params = optax.apply_updates(state['params'], updates)
    metrics |= {'grad_norm': optax.global_norm(grads)}
    return {'step': state['step'] + 1, 'params': params, 'opt_state': opt_state}, metrics

  def evaluate(self, state: dict, batch: dict) -> dict:
    """Metrics of a batch; `weight` is its number of frames."""
    _, metrics = self.eval_fn(state['params'], batch)
    return metrics | {'weight': jnp.sum(self._tokens(batch)[1])}

  def describe(self) -> dict:
    """What an export needs to know besides the state."""
    return {
      'kind': 'stage',
      'stage': description.describe(self.stage),
      'transformer': description.describe(self.config),
    }

  def weights(self, state: dict) -> dict:
    """The part of the state that a bundle holds."""
    return state['params']
