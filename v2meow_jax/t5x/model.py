"""A stage as a model of T5X, so that T5X's `train.py` trains it.

Imported by nothing here: T5X's programs do, through gin/t5x.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import core
from flax.linen.partitioning import AxisMetadata

import gin
from v2meow_jax import errors, linen, partitioning
from v2meow_jax.generation import decode
from v2meow_jax.models import conditioning
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Stage
from v2meow_jax.t5x import tasks
from v2meow_jax.t5x.checkpoint import flat, nested

try:
  import clu.metrics
  from t5x import adafactor, losses, models  # type: ignore[import-not-found] (it is on no registry)
except ImportError as error:
  raise errors.ConfigError(
    f'training under T5X needs {error.name}; put a checkout of google-research/t5x and what it imports on '
    'PYTHONPATH, see docs/from_t5x.md (v2meow train needs none of it)'
  ) from error


@gin.configurable
def factor_rules() -> Mapping[str, Any]:
  """T5X's rules of what Adafactor factors, with the axes that only stages have."""
  rules = dict(adafactor.standard_logical_factor_rules())
  return rules | {'levels': adafactor.FactorDim.BATCH, 'features': adafactor.FactorDim.COLUMN}


@gin.configurable
class StageModel(models.BaseModel):
  """A stage; its loss is the sum over tokens, in nats, as T5X's models have it.

  Args:
    stage: streams, target and crop.
    config: of the Transformer.
    optimizer_def: one of T5X's.
    partitioner: T5X's, the same that trains: activations are placed by its mesh and rules.
    z_loss: weight of the squared logarithm of the softmax's denominator.
    label_smoothing: share of the probability that is spread over all codes.
    loss_normalizing_factor: what the sum is divided by; see T5X's `losses`. None: nothing.
    sampling: how `predict_batch` draws tokens, of one crop at a time.

  Raises:
    errors.ConfigError: the sampling has guidance, which is not done here.
  """

  def __init__(
    self,
    stage: Stage,
    config: TransformerConfig,
    optimizer_def: Any,
    partitioner: Any = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    loss_normalizing_factor: float | str | None = None,
    sampling: Sampling | None = None,
  ):
    super().__init__(optimizer_def)
    if sampling is not None and sampling.guidance:
      raise errors.ConfigError('Sampling.guidance is not done under T5X; v2meow generate does it')
    self.trainable = StageTrainable(stage, config, optax.identity())
    self.FEATURE_CONVERTER_CLS = tasks.converter(stage)
    self._partitioner, self._sampling = partitioner, sampling or Sampling()
    self._z_loss, self._label_smoothing = z_loss, label_smoothing
    self._normalizing = loss_normalizing_factor

  def _placed(self) -> contextlib.AbstractContextManager[None]:
    if self._partitioner is None:
      return contextlib.nullcontext()
    return partitioning.placed(self._partitioner.mesh, self._partitioner.logical_axis_rules)

  def get_initial_variables(
    self, rng: jax.Array, input_shapes: Mapping[str, Any], input_types: Mapping[str, Any] | None = None
  ) -> Mapping[str, Any]:
    """Parameters, and under `params_axes` the logical axes of each."""
    del input_types  # a stage's batch has the types that it has
    stage = self.trainable.stage
    # SeqIO's evaluator tells no shapes of what is one number an example.
    rows = (input_shapes[stage.target.stream.name][0],)
    batch = {
      name: jnp.zeros(input_shapes.get(name, rows), value.dtype)
      for name, value in stage.empty_batch().items()
    }
    boxed = self.trainable.init(rng, batch)['params']
    axes = {f'{name}_axes': AxisMetadata(box.names) for name, box in flat(boxed).items()}
    return core.freeze({'params': nn.unbox(boxed), 'params_axes': nested(axes)})

  def _logits(self, params, batch: Mapping[str, Any], dropout_rng: jax.Array | None) -> jax.Array:
    network, stage = self.trainable.model, self.trainable.stage
    params, batch = core.unfreeze(params), dict(batch)
    with self._placed():
      if dropout_rng is None:
        return linen.call(network, params, batch)
      drop, dropout = jax.random.split(dropout_rng)
      size = batch[stage.target.stream.name].shape[0]
      dropped = conditioning.draw_dropped(stage, drop, size) if stage.conditions else None
      return linen.call(network, params, batch, dropped, False, rngs={'dropout': dropout})

  def _targets(self, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
    """(tokens, weights), each [batch, frames, levels]."""
    target = self.trainable.stage.target
    tokens = batch[target.stream.name][..., slice(*target.span)]
    weights = batch[f'{target.stream.name}/mask'][..., None].astype(jnp.float32)
    return tokens, jnp.broadcast_to(weights, tokens.shape)

  def loss_fn(
    self, params, batch: Mapping[str, Any], dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, dict[str, Any]]:
    """T5X's weighted cross-entropy over the tokens of a batch, and T5X's metrics with the loss by level."""
    logits = self._logits(params, batch, dropout_rng)
    tokens, weights = self._targets(batch)
    # A frame's levels one after another.
    line = lambda x: x.reshape(x.shape[0], -1, *x.shape[3:])  # noqa: E731
    factor, weights = losses.get_loss_normalizing_factor_and_weights(
      self._normalizing, {'decoder_target_tokens': line(tokens), 'decoder_loss_weights': line(weights)}
    )
    loss, z_loss, _ = losses.compute_weighted_cross_entropy(
      line(logits),
      targets=line(tokens),
      weights=weights,
      label_smoothing=self._label_smoothing,
      z_loss=self._z_loss,
      loss_normalizing_factor=factor,
    )
    metrics = models.compute_base_metrics(
      logits=line(logits), targets=line(tokens), mask=weights, loss=loss, z_loss=z_loss
    )
    target, depth = self.trainable.stage.target, tokens.shape[-1]
    by_level = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    for level in range(depth if depth > 1 else 0):
      metrics[f'loss_level_{target.span[0] + level}'] = clu.metrics.Average.from_model_output(
        by_level[..., level], mask=weights.reshape(tokens.shape)[..., level]
      )
    return loss, metrics

  def score_batch(
    self, params, batch: Mapping[str, Any], return_intermediates: bool = False
  ) -> jax.Array | tuple[jax.Array, dict]:
    """Log-likelihood of each example's tokens in nats, [batch]."""
    tokens, weights = self._targets(batch)
    losses_of = optax.softmax_cross_entropy_with_integer_labels(self._logits(params, batch, None), tokens)
    scores = -(losses_of * weights).sum((1, 2))
    return (scores, {}) if return_intermediates else scores

  def predict_batch_with_aux(
    self, params, batch: Mapping[str, Any], rng: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Tokens [batch, frames, levels] that are drawn for the conditions of a batch."""
    network, stage, sampling = self.trainable.model, self.trainable.stage, self._sampling
    rows, codes = batch[stage.target.stream.name].shape[0], stage.target.stream.codes
    keys = jax.random.split(jax.random.key(0) if rng is None else rng, rows)
    with self._placed():
      tokens = decode.generate_here(
        network,
        core.unfreeze(params),
        dict(batch),
        jnp.zeros((rows, stage.frames, stage.target.depth), jnp.int32),
        jnp.zeros(rows, jnp.int32),
        keys,
        stage.frames,
        sampling.knobs(),
        sampling.banned(stage.target.depth, codes),
        np.zeros((1, len(stage.conditions)), bool),
        np.ones(1, np.float32),
        candidates=sampling.candidates(codes),
      )
    return tokens, {}
