"""A run as it lies in its directory: what was trained, and its newest weights."""

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from v2meow_jax import errors
from v2meow_jax.models import layout

FILE = 'model.json'
_LITTLE = 0.1  # share of the codes


def is_run(directory: epath.PathLike) -> bool:
  """Whether a folder is a run's."""
  return (epath.Path(directory) / FILE).is_file()


@dataclasses.dataclass(frozen=True)
class SavedRun:
  """A run's newest weights and what they belong to.

  Attributes:
    directory: of the run.
    kind: `codec` or `stage`.
    about: its `model.json`.
    step: of the weights.
    weights: what a bundle holds of them.
    note: what whoever uses them should know; empty where there is nothing.
  """

  directory: epath.Path
  kind: str
  about: dict[str, Any]
  step: int
  weights: dict[str, Any]
  note: str = ''


def read_run(directory: epath.PathLike) -> SavedRun:
  """Reads `model.json` and the latest checkpoint.

  Raises:
    errors.BundleError: it is no run, or it has no complete checkpoint.
  """
  # Orbax takes a quarter of a second to import, and bundles do without.
  from v2meow_jax.training.checkpoints import restore_arrays

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
  note = ''
  state = saved['trainable']
  if kind == 'codec':
    weights = {'params': state['params'], 'codebooks': state['books']['vectors']}
    note = _usage(directory, np.asarray(state['books']['counts'], np.float64))
  else:
    # Averaged parameters where the run kept an average, as its evaluation does.
    weights = layout.to_unrolled(state.get('ema', state['params']), about['transformer']['layers'])
  return SavedRun(directory, kind, about, step, weights, note)


def _usage(directory: epath.Path, counts: np.ndarray) -> str:
  """What is to be said of codebooks of which training used little, by its moving averages [levels, codes]."""
  share = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
  # The perplexity: as many codes, used equally, would tell as much.
  used = np.exp(-np.sum(share * np.log(np.maximum(share, 1e-12)), 1)) / counts.shape[1]
  if used.min() >= _LITTLE:
    return ''
  level = int(used.argmin())
  return (
    f'{directory}: level {level} of the codec used {used[level]:.1%} of its codes in training; train it for '
    'longer, and see v2meow codec report'
  )
