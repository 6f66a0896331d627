"""What is wrong in a bundle whose files have the right hashes: arrays that its networks do not take."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from v2meow_jax.bundles.bundle import Bundle


def faults(bundle: Bundle) -> list[str]:
  """Arrays that are missing, unknown, of another shape, or not finite; one sentence each."""
  found = []
  for runner, part in zip(bundle.stages(), bundle.about['stages'], strict=True):
    found += _differences(part['file'], runner.model, runner.stage.empty_batch, runner.params)
  codec, part = bundle.codec(), bundle.about['codec']

  def audio() -> np.ndarray:
    return np.zeros((1, 4 * codec.hop, codec.channels), np.float32)

  return found + _differences(part['file'], codec.config.build(), audio, codec.weights['params'])


def _differences(file: str, network: nn.Module, example: Callable[[], Any], params: Any) -> list[str]:
  """Where a network's arrays are not what it takes."""
  try:
    return _compared(file, network, example(), params)
  except Exception as error:  # of any kind: what is described may be no network at all
    return [f'{file}: there is no such network ({str(error).strip().splitlines()[0][:200]})']


def _compared(file: str, network: nn.Module, example: Any, params: Any) -> list[str]:
  wanted = nn.unbox(jax.eval_shape(network.init, jax.random.key(0), example))['params']
  flat: dict[str, Any] = dict(traverse_util.flatten_dict(wanted, sep='/'))  # type: ignore[arg-type]
  shapes = {name: leaf.shape for name, leaf in flat.items()}
  there: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep='/'))
  found = [f'{file}: {name} is missing' for name in shapes.keys() - there.keys()]
  found += [f'{file}: {name} is not known' for name in there.keys() - shapes.keys()]
  for name in sorted(shapes.keys() & there.keys()):
    if there[name].shape != shapes[name]:
      found.append(f'{file}: {name} has shape {there[name].shape} instead of {shapes[name]}')
    elif not np.isfinite(there[name]).all():
      found.append(f'{file}: {name} has values that are not finite')
  return found
