"""Checkpoints of a run: the state and the data position, saved together by Orbax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from v2meow_jax import errors


class Checkpoints:
  """The folder `checkpoints/` of a run.

  Saves in the background; a save is complete only once Orbax has committed it, so a kill in the
  middle leaves the one before as the latest.

  Args:
    run_dir: the run's directory; the folder is made on the first save.
    keep: checkpoints kept.
  """

  def __init__(self, run_dir: epath.PathLike, keep: int = 2):
    self.path = epath.Path(run_dir) / 'checkpoints'
    self._manager = ocp.CheckpointManager(
      self.path.resolve() if '://' not in str(self.path) else self.path,
      options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
    )

  def latest(self) -> int | None:
    """Step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def save(self, step: int, state: Any, position: int) -> None:
    """Saves in the background; returns once the state has been copied."""
    if step in self._manager.all_steps():
      return
    # A copy: the next step donates these buffers, and on CPU the background save reads them in place.
    state = jax.tree.map(jnp.copy, state)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), data=ocp.args.JsonSave({'step': step, 'position': position})
      ),
    )

  def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, int, int]:
    """(state, step, position) of a checkpoint, the latest by default.

    Args:
      abstract_state: tree of `jax.ShapeDtypeStruct`, with shardings, that the state must match.
      step: which one.

    Raises:
      errors.BundleError: there is none, or it holds another architecture.
    """
    step = self.latest() if step is None else step
    if step is None:
      raise errors.BundleError(f'{self.path}: there is no complete checkpoint; train the run first')
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()),
      )
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
      reason = str(error).strip().splitlines()[0][:200]
      raise errors.BundleError(
        f'{self.path}/{step}: the checkpoint does not fit this configuration ({reason}); '
        'use the configuration it was trained with, or another run directory'
      ) from error
    return restored['state'], restored['data']['step'], restored['data']['position']

  def close(self) -> None:
    """Waits for the save under way."""
    self._manager.wait_until_finished()
    self._manager.close()


def abstract(state: Any) -> Any:
  """Shapes, dtypes and shardings of a state, without its values."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def restore_arrays(run_dir: epath.PathLike) -> tuple[dict, int]:
  """(state, step) of a run's latest checkpoint as nested dictionaries of NumPy arrays, whatever it holds.

  Raises:
    errors.BundleError: there is no complete checkpoint.
  """
  path = epath.Path(run_dir) / 'checkpoints'
  if not path.exists():
    raise errors.BundleError(f'{run_dir}: there is no checkpoint; train the run first')
  with ocp.CheckpointManager(path.resolve(), options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
    step = manager.latest_step()
    if step is None:
      raise errors.BundleError(f'{run_dir}: there is no complete checkpoint; train the run first')
    with ocp.PyTreeCheckpointer() as reader:
      state = reader.restore(
        path.resolve() / str(step) / 'state',
        restore_args=jax.tree.map(
          lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
          reader.metadata(path.resolve() / str(step) / 'state').item_metadata.tree,
        ),
      )
  return state, step
