"""A stage that is ready to run: its network with weights, and how its tokens are drawn."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from v2meow_jax import errors
from v2meow_jax.models import layout
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Stage


@dataclasses.dataclass(frozen=True)
class StageRunner:
  """A stage with weights.

  Attributes:
    model: the network.
    params: its parameters, layers unrolled.
    sampling: how its tokens are drawn unless something else is asked for.
  """

  model: StageModel
  params: Any
  sampling: Sampling

  @property
  def stage(self) -> Stage:
    """What it does."""
    return self.model.stage

  def prepared(self, dtype: str) -> 'StageRunner':
    """The same with weights and arithmetic in `dtype`, and as this machine multiplies fastest.

    Norms, softmax and logits stay float32.

    Raises:
      errors.ConfigError: `dtype` is neither `float32` nor `bfloat16`.
    """
    if dtype not in ('float32', 'bfloat16'):
      raise errors.ConfigError(f'dtype {dtype!r} is neither float32 nor bfloat16')
    config = self.model.config
    turned = jax.default_backend() == 'cpu' and not config.transposed
    params = layout.transpose_kernels(self.params) if turned else self.params
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    config = dataclasses.replace(config, dtype=dtype, transposed=config.transposed or turned)
    return StageRunner(StageModel(self.stage, config), params, self.sampling)

  def placed(self, partitioner: Partitioner) -> 'StageRunner':
    """The same with its weights where the partitioner's rules put them."""
    key, batch = jax.random.key(0), self.stage.empty_batch()
    shardings, _ = partitioner.state_sharding(self.model.init, key, batch)
    return dataclasses.replace(self, params=jax.device_put(self.params, shardings['params']))
