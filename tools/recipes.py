"""What a recipe comes to, with random weights and data, for benchmarks that need nothing that was trained."""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gin
from v2meow_jax.codec.codec import Codec
from v2meow_jax.experiment import configuration, experiment
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.sampling import Sampling


def inspected(name: str, hardware: str | None = None, bindings: tuple[str, ...] = ()) -> tuple:
  """(trainable, batches) of a recipe of gin/recipes.

  Args:
    name: without the folder and `.gin`.
    hardware: a file of gin/hardware, likewise.
    bindings: further ones, as `--gin.NAME=VALUE`.
  """
  gin.clear_config()
  files = [f'--gin_file=recipes/{name}.gin']
  files += [f'--gin_file=hardware/{hardware}.gin'] if hardware else []
  args: argparse.Namespace = configuration.parse(configuration.parser('benchmark', None), [*files, *bindings])
  found = []
  experiment.inspect(args, lambda trainable, batches, *_: found.append((trainable, batches)))
  return found[0]


def random_batch(trainable, batches) -> dict[str, np.ndarray]:
  """A batch of a stage's shapes: random tokens and embeddings, every one of them there."""
  rng = np.random.default_rng(0)
  codes = {stream.name: stream.codes for stream in trainable.stage.streams}
  made = {}
  for name, x in batches.shapes().items():
    if x.dtype == bool:
      made[name] = np.ones(x.shape, bool)
    elif x.dtype == np.int32:
      made[name] = rng.integers(0, codes[name], x.shape).astype(np.int32)
    else:
      made[name] = rng.standard_normal(x.shape).astype(x.dtype)
  return made


def random_stage(trainable, dtype: str, sampling: Sampling) -> StageRunner:
  """A stage's network with weights of about the size that they begin with, made where they are used."""
  model = trainable.model
  config = model.config.for_inference()
  model = type(model)(model.stage, config)
  shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), model.stage.empty_batch()))['params']
  leaves, tree = jax.tree.flatten(shapes)
  keys = list(jax.random.split(jax.random.key(0), len(leaves)))

  @jax.jit
  def weights(keys):
    return [0.02 * jax.random.normal(key, x.shape, jnp.float32) for key, x in zip(keys, leaves, strict=True)]

  return StageRunner(model, tree.unflatten(weights(keys)), sampling).prepared(dtype)


def random_codec(trainable) -> Codec:
  """A codec's network as it begins, with random codebooks."""
  config, keys = trainable.config, jax.random.split(jax.random.key(0))
  network, hop = config.build(), config.network.hop
  params = jax.jit(network.init)(keys[0], jnp.zeros((1, 4 * hop, config.channels)))['params']
  sizes = config.quantizer
  codebooks = 0.3 * jax.random.normal(keys[1], (sizes.levels, sizes.codes, sizes.dimension))
  return Codec(config, {'params': nn.unbox(params), 'codebooks': codebooks})
