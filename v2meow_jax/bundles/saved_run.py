"""A run as it lies in its directory: what was trained, and its newest weights."""

import dataclasses
import json
from typing import Any

from etils import epath

from v2meow_jax import errors
from v2meow_jax.models import layout
from v2meow_jax.training.checkpoints import restore_arrays

FILE = 'model.json'


def is_run(directory: epath.PathLike) -> bool:
  """Whether a folder is a run's."""
  return (epath.Path(directory) / FILE).is_file()


@dataclasses.dataclass(frozen=True)
class SavedRun:
  """A run's newest weights and what they belong to."""

  directory: epath.Path
  kind: str
  about: dict[str, Any]
  step: int
  weights: dict[str, Any]


def read_run(directory: epath.PathLike) -> SavedRun:
  """Reads `model.json` and the latest checkpoint.

  Raises:
    errors.BundleError: it is no run, or it has no complete checkpoint.
  """
  directory = epath.Path(directory)
  path = directory / FILE
  if not is_run(directory):
    raise errors.BundleError(f'{directory}: no {FILE} there; a run is what v2meow train writes')
  try:
    about = json.loads(path.read_text())
    kind = about['kind']
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise errors.BundleError(f'{path}: damaged ({error})') from error
  saved, step = restore_arrays(directory)
  state = saved['trainable']
  if kind == 'codec':
    weights = {'params': state['params'], 'codebooks': state['books']['vectors']}
  else:
    # Averaged parameters where the run kept an average, as its evaluation does.
    weights = layout.to_unrolled(state.get('ema', state['params']), about['transformer']['layers'])
  return SavedRun(directory, kind, about, step, weights)
