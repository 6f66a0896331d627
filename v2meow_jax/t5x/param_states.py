"""The state of T5X's Adafactor and of ours: the same moments, kept in another way.

T5X has `v_row`, `v_col`, `v` and `m` for each parameter, of one number where it keeps nothing. A matrix it
factors as Optax does: rows are the means over the larger dimension. With an array that is stacked
(`partitioning.STACKED_AXES`) it goes by names instead: rows are those of `embed`, whichever is larger.

T5X's loss is the sum over the tokens of a batch unless it is told otherwise, and ours the mean: its gradients
are so many times ours, and its second moments as many times squared. Updates do not show it, but moments that
are carried from the one to the other would be wrong until they are forgotten.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import optax

from v2meow_jax import errors, partitioning

Axes = tuple[str | None, ...]
KEPT = ('v_row', 'v_col', 'v')


def _stacks(axes: Axes) -> int:
  return len(list(itertools.takewhile(lambda axis: axis in partitioning.STACKED_AXES, axes)))


def _turned(shape: tuple[int, ...], axes: Axes) -> bool:
  """Whether what is T5X's row is Optax's column."""
  stacks = _stacks(axes)
  if not stacks or len(shape) - stacks != 2:
    return False
  smaller = int(np.argsort(shape[stacks:])[0])  # Optax's rows are along it
  return axes[stacks + smaller] != 'embed'


def _times(values: np.ndarray, scale: float) -> np.ndarray:
  values = np.asarray(values)
  return values if scale == 1 else (values * scale).astype(values.dtype)


def to_t5x(
  state: optax.FactoredState,
  params: Mapping[str, np.ndarray],
  axes: Mapping[str, Axes],
  summed: float = 1.0,
) -> dict[str, np.ndarray]:
  """`NAME/v_row` and its like, for `state/param_states`.

  Args:
    state: of `optimizers.adafactor`, each part by the parameters' names.
    params: by name.
    axes: logical axes of each.
    summed: tokens that T5X's loss is summed over; 1: it is a mean.
  """
  made = {}
  for name, param in params.items():
    row, column, full = (_times(getattr(state, part)[name], summed**2) for part in KEPT)  # type: ignore[index]
    factored = full.shape != param.shape
    nothing = np.zeros(1, np.float32)
    if _turned(param.shape, axes[name]):
      row, column = column, row
    made |= {
      f'{name}/v_row': row if factored else nothing,
      f'{name}/v_col': column if factored else nothing,
      f'{name}/v': nothing if factored else full,
      f'{name}/m': nothing,
    }
  return made


def of_t5x(
  found: Mapping[str, np.ndarray],
  step: int,
  params: Mapping[str, np.ndarray],
  axes: Mapping[str, Axes],
  summed: float = 1.0,
) -> optax.FactoredState:
  """The other way round: each part of our state by the parameters' names.

  Args:
    found: what is under `state/param_states`, by name.
    step: updates made.
    params: by name.
    axes: logical axes of each.
    summed: tokens that T5X's loss was summed over; 1: it was a mean.

  Raises:
    errors.BundleError: it is the state of another optimiser, or has momentum.
  """
  parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in KEPT}
  for name, param in params.items():
    for part in (*KEPT, 'm'):
      if f'{name}/{part}' not in found:
        raise errors.BundleError(f'there is no state/param_states/{name}/{part}, so it is not of Adafactor')
    row, column, full = (_times(found[f'{name}/{part}'], summed**-2) for part in KEPT)
    momentum = found[f'{name}/m']
    if momentum.shape != (1,):
      raise errors.BundleError(f'its Adafactor has momentum ({name}/m), ours has none')
    nothing = np.zeros((*param.shape[: _stacks(axes[name])], 1), np.float32)
    factored = full.shape != param.shape
    if _turned(param.shape, axes[name]):
      row, column = column, row
    parts['v_row'][name] = row if factored else nothing
    parts['v_col'][name] = column if factored else nothing
    parts['v'][name] = nothing if factored else full
  return optax.FactoredState(np.int32(step), **parts)  # type: ignore[arg-type]
