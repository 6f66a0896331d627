"""A stage's prefill and decode step as StableHLO, which runs without any of our model code.

Written by `jax.export` with a symbolic batch and the weights as arguments, so that one small file serves
every batch size. Two functions a stage:

    prefill(weights, conditions, dropped) -> (logits, cache)
    step(weights, conditions, tokens, step, cache) -> (logits, cache)

`cache` is (layers, count, aligned), which the caller hands on as it is; see `models.cache`.
"""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from v2meow_jax import linen
from v2meow_jax.models.cache import Cache
from v2meow_jax.models.runner import StageRunner

PLATFORMS = ('cpu', 'cuda', 'tpu')


def prefill(model, params, batch: dict, dropped):
  """Logits of step 0 and the cache after the prefix."""
  stage = model.stage
  known = jnp.zeros((dropped.shape[0], 0, stage.step_tokens), jnp.int32)
  capacity = stage.prefix_length + stage.steps
  logits, cache = linen.call(model, params, batch, known, capacity, dropped, method='prefill')
  return logits, tuple(cache)


def step(model, params, batch: dict, tokens, number, cache: tuple):
  """Logits of step `number` from the tokens of the one before."""
  logits, now = linen.call(model, params, batch, tokens, number, Cache(*cache), method='decode_step')
  return logits, tuple(now)


def write(runner: StageRunner, directory: pathlib.Path) -> list[pathlib.Path]:
  """Writes `stage_NAME.prefill.stablehlo` and `stage_NAME.step.stablehlo`.

  Args:
    runner: the stage, with kernels as bundles hold them.
    directory: where to.
  """
  model, stage = runner.model, runner.stage
  (rows,) = export.symbolic_shape('b')
  example = stage.empty_batch()
  used = {c.stream.name for c in stage.conditions}

  def is_used(name: str) -> bool:
    stream = name.removesuffix('/mask').removesuffix('/offset')
    return stream in used or name == f'{stage.target.stream.name}/offset'

  conditions = {
    name: jax.ShapeDtypeStruct((rows, *value.shape[1:]), value.dtype)
    for name, value in example.items()
    if is_used(name)
  }
  weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), runner.params)
  dropped = jax.ShapeDtypeStruct((rows, len(stage.conditions)), bool)
  tokens = jax.ShapeDtypeStruct((rows, stage.step_tokens), np.int32)
  number = jax.ShapeDtypeStruct((), np.int32)
  first = functools.partial(prefill, model)
  _, cache = jax.eval_shape(first, weights, conditions, dropped)
  made: dict[str, Any] = {
    'prefill': (first, (weights, conditions, dropped)),
    'step': (functools.partial(step, model), (weights, conditions, tokens, number, cache)),
  }
  paths = []
  for name, (function, arguments) in made.items():
    path = directory / f'stage_{stage.name}.{name}.stablehlo'
    path.write_bytes(export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())
    paths.append(path)
  return paths
