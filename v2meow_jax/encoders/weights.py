"""Published safetensors files: read, hashed, and laid into Linen networks whose modules have their names."""

import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from v2meow_jax import errors

Arrays = dict[str, np.ndarray]


@functools.lru_cache(maxsize=32)
def settings(folder: str, file: str = 'config.json') -> dict[str, Any]:
  """A JSON file of a model's folder.

  Raises:
    errors.ConfigError: it is not there, or no JSON object.
  """
  path = pathlib.Path(folder) / file
  if not path.is_file():
    raise errors.ConfigError(f'{path}: there is no such file; give the folder of a published model')
  with errors.translated(errors.ConfigError, f'{path}: damaged; copy the model again'):
    made = json.loads(path.read_bytes())
    if not isinstance(made, dict):
      raise ValueError('no JSON object')
    return made


def files(place: str | pathlib.Path) -> list[pathlib.Path]:
  """The safetensors files of a published model: itself, or a folder's `model.safetensors`, whole or in parts.

  Raises:
    errors.ConfigError: one is missing.
  """
  place = pathlib.Path(place)
  if place.is_file():
    found = [place]
  elif (place / 'model.safetensors').is_file():
    found = [place / 'model.safetensors']
  elif (place / 'model.safetensors.index.json').is_file():
    index = settings(str(place), 'model.safetensors.index.json')
    found = [place / name for name in sorted(set(index.get('weight_map', {}).values()))]
  else:
    raise errors.ConfigError(f'{place}: there is no model.safetensors; give the folder of a published model')
  for path in found:
    if not path.is_file():
      raise errors.ConfigError(f'{path}: missing; the model is incomplete, copy it again')
  return found


def read(place: str | pathlib.Path) -> Arrays:
  """Arrays by name of what `files` finds.

  Raises:
    errors.ConfigError: it is incomplete or damaged.
  """
  from safetensors.numpy import load_file  # no NumPy type for bfloat16: such files are told of below

  made: Arrays = {}
  for path in files(place):
    with errors.translated(errors.ConfigError, f'{path}: no safetensors file that can be read'):
      made |= load_file(path)
  return made


def digest(params: Any) -> str:
  """A hash of names, shapes and values (in float32) of nested arrays."""
  made = hashlib.sha256()
  flat: dict[str, Any] = dict(traverse_util.flatten_dict(params, sep='/'))
  for name, value in sorted(flat.items()):
    array = np.ascontiguousarray(value, np.float32)
    made.update(f'{name} {array.shape}\n'.encode() + array.tobytes())
  return made.hexdigest()


def published(path: str) -> str:
  """PyTorch's name of a parameter: `encoder/layers_3/fc1/kernel` is `encoder.layers.3.fc1.weight`."""
  module, _, leaf = path.replace('/', '.').rpartition('.')
  module = re.sub(r'_(\d+)(?=\.|$)', r'.\1', module)
  leaf = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}.get(leaf, leaf)
  return f'{module}.{leaf}' if module else leaf


def laid_out(path: str, array: np.ndarray) -> np.ndarray:
  """A parameter as Linen has it: kernels with the output last."""
  if path.rpartition('/')[2] != 'kernel':
    return array
  return np.moveaxis(array, (0, 1), (-1, -2))


def into(module: nn.Module, arrays: Mapping[str, np.ndarray], *example: Any, prefix: str = '') -> dict:
  """The network's parameters out of a checkpoint, float32.

  Args:
    module: the network.
    arrays: the checkpoint; what the network has not is passed over.
    example: what it is called with.
    prefix: that the checkpoint's names have before the network's own.

  Raises:
    errors.ConfigError: an array is missing or of another shape.
  """
  shapes = jax.eval_shape(module.init, jax.random.key(0), *example)['params']
  flat: dict[str, Any] = dict(traverse_util.flatten_dict(shapes, sep='/'))  # type: ignore[arg-type] (joined)
  made = {}
  for path, leaf in flat.items():
    name = prefix + published(path)
    if name not in arrays:
      raise errors.ConfigError(f'the weights hold no {name}; they are incomplete, or of another model')
    value = laid_out(path, np.asarray(arrays[name], np.float32))
    if value.shape != leaf.shape:
      raise errors.ConfigError(
        f'the weights have {name} of shape {arrays[name].shape}, which its configuration does not; they are '
        'of another model'
      )
    made[path] = np.ascontiguousarray(value)
  return traverse_util.unflatten_dict(made, sep='/')
