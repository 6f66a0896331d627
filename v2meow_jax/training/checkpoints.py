"""Checkpoints of a run: the state and the data position, saved together by Orbax."""

import contextlib
import itertools
import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from v2meow_jax import errors, stores

# Signs of a storage that takes no more in what Orbax and TensorStore raise.
STORAGE = {
  'No space left': 'no space is left on the device',
  'RESOURCE_EXHAUSTED': 'the storage is full',
  'PERMISSION_DENIED': 'permission denied',
  'Permission denied': 'permission denied',
  'Read-only file system': 'the file system is read-only',
}
LISTINGS = 5  # tries to list a folder in which a run deletes checkpoints meanwhile


def _bits(leaf: Any) -> Any:
  """An array's bits as uint32."""
  size = leaf.dtype.itemsize
  if leaf.dtype == bool or size < 4:
    kind = {1: np.uint8, 2: np.uint16}[size]
    leaf = leaf.astype(kind) if leaf.dtype == bool else jax.lax.bitcast_convert_type(leaf, kind)
    return leaf.astype(jnp.uint32)
  return jax.lax.bitcast_convert_type(leaf, jnp.uint32)


def _paths(state: Any) -> list[tuple[str, Any]]:
  return [
    (jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  ]


@jax.jit
def _digest(state: Any) -> jax.Array:
  total = jnp.uint32(0)
  for name, leaf in _paths(state):
    total += jnp.uint32(zlib.crc32(name.encode()) | 1) * jnp.sum(_bits(leaf), dtype=jnp.uint32)
  return total


def digest(state: Any) -> int:
  """A checksum of a state's bits: sums modulo 2^32, so it is the same on every mesh."""
  return int(_digest(state))


def signature(state: Any) -> dict[str, list]:
  """Path of every array -> its dtype and shape."""
  return {name: [str(leaf.dtype), *leaf.shape] for name, leaf in _paths(state)}


def _check(about: dict[str, Any]) -> int:
  """A checksum of a checkpoint's description, without its own."""
  told = {name: value for name, value in about.items() if name != 'check'}
  return zlib.crc32(json.dumps(told, sort_keys=True).encode())


class Checkpoints:
  """The folder `checkpoints/` of a run.

  Saves in the background; a save is complete only once Orbax has committed it, so a kill in the
  middle leaves the one before as the latest.

  Args:
    run_dir: the run's directory; the folder is made on the first save.
    keep: latest checkpoints kept.
    keep_best: checkpoints kept besides for the lowest validation loss.
    keep_hours: one more is kept for every so many hours; 0: none.
    read_only: nothing is made or removed.
  """

  def __init__(
    self,
    run_dir: epath.PathLike,
    keep: int = 2,
    keep_best: int = 0,
    keep_hours: float = 0.0,
    read_only: bool = False,
  ):
    if keep < 1 or keep_best < 0 or keep_hours < 0:
      raise errors.ConfigError('keep must be at least 1; keep_best and keep_hours cannot be negative')
    self.path = _folder(run_dir)
    kept: list = [policies.LatestN(keep)]
    if keep_best:
      kept.append(
        policies.BestN(
          get_metric_fn=lambda metrics: metrics['loss'],
          reverse=True,
          n=keep_best,
          keep_checkpoints_without_metrics=False,
        )
      )
    if keep_hours:
      kept.append(policies.EveryNSeconds(max(1, round(keep_hours * 3600))))
    self._read_only = read_only
    self._manager = _open(
      self.path,
      ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(kept),
        # Without it the metrics of checkpoints that an earlier process made are not read.
        best_fn=(lambda metrics: metrics['loss']) if keep_best else None,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
      ),
    )

  def latest(self) -> int | None:
    """Step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def has(self, before: int) -> bool:
    """Whether there is a complete checkpoint of a smaller step."""
    return any(step < before for step in self._manager.all_steps())

  def save(
    self,
    step: int,
    state: Any,
    position: int,
    layout: str = 'unrolled',
    metrics: dict[str, float] | None = None,
    rewinds: int = 0,
  ) -> None:
    """Saves in the background; returns once the state is out of the devices' memory.

    Args:
      step: updates made.
      state: tree of arrays.
      position: number of the next example.
      layout: how layers lie in the state; see `models.layout`.
      metrics: of an evaluation of this state, by which the best are kept.
      rewinds: times that the run has gone back.
    """
    if step in self._manager.all_steps():
      return
    # The next step donates these buffers. Orbax returns once they are in the host's memory; but where that is
    # the devices' own it would read them in place, so they are copied.
    if jax.default_backend() == 'cpu':
      state = jax.tree.map(jnp.copy, state)
    about = {
      'step': step,
      'position': position,
      'rewinds': rewinds,
      'layout': layout,
      'digest': digest(state),
      'arrays': signature(state),
    }
    about['check'] = _check(about)
    with _saving(self.path):
      self._manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(about)),
        metrics={'loss': metrics['loss']} if metrics else None,
        force=True,
      )

  def restore(
    self, abstract: Callable[[str], Any] | Any, step: int | None = None, before: int | None = None
  ) -> tuple[Any, dict[str, Any]]:
    """(state, about) of a checkpoint: the newest by default that is whole.

    Damaged ones that are newer are reported and set aside.

    Args:
      abstract: tree of `jax.ShapeDtypeStruct`, with shardings, that the state must match; or a function
        from the layout that the checkpoint is in to such a tree.
      step: which one; no other is tried.
      before: newest that may be taken has a smaller step; those from there on are deleted.

    Returns:
      The state, and `step`, `position`, `layout` and `rewinds` as they were saved.

    Raises:
      errors.BundleError: there is none, all are damaged, or it holds another architecture.
    """
    wanted = abstract if callable(abstract) else lambda layout: abstract
    steps = sorted(self._manager.all_steps(), reverse=True) if step is None else [step]
    given_up = [number for number in steps if before is not None and number >= before]
    steps = [number for number in steps if number not in given_up]
    if not steps:
      raise errors.BundleError(f'{self.path}: there is no complete checkpoint; train the run first')
    damaged = []
    for number in steps:
      about, state, reason = {}, None, ''
      try:
        about = self._about(number)
        state = self._read(number, about, wanted(about['layout']))
      except (errors.BundleError, MemoryError):
        raise
      # Of many kinds, a bare Exception among them; what was asked for and does not fit is told before this.
      except Exception as error:
        reason = _reason(error)
      # Each process reads its own part: what one of them cannot read is damaged for all.
      if _any_process(bool(reason)):
        reason = reason or 'another process could not read its part'
      elif digest(state) != about['digest']:
        reason = 'its checksum is another'
      if reason:
        damaged.append((number, reason))
        warnings.warn(f'{self.path}/{number}: the checkpoint is damaged ({reason})', stacklevel=2)
        continue
      self._set_aside([number for number, _ in damaged])
      for later in given_up:
        self._manager.delete(later)
      return state, about
    raise errors.BundleError(
      f'{self.path}: no checkpoint can be read; the newest, {damaged[0][0]}, is damaged ({damaged[0][1]}); '
      'restore the folder from a backup, or train in another one'
    )

  # Both are read by Orbax's handlers and not by its manager, which waits for the other processes after a read
  # that succeeds: for ever, where theirs did not.

  def _about(self, step: int) -> dict[str, Any]:
    with contextlib.closing(ocp.JsonCheckpointHandler()) as handler:
      about = dict(handler.restore(self.path / str(step) / 'data', args=ocp.args.JsonRestore()))
    if about['check'] != _check(about):
      raise ValueError('the checksum of its description is another')
    return about

  def _read(self, step: int, about: dict[str, Any], abstract: Any) -> Any:
    ours, theirs = signature(abstract), about['arrays']
    if ours != theirs:
      name = next(n for n in sorted(ours | theirs) if ours.get(n) != theirs.get(n))
      have, want = (' '.join(map(str, tree.get(name, ['none']))) for tree in (theirs, ours))
      raise errors.BundleError(
        f'{self.path}/{step}: the checkpoint does not fit this configuration ({name} is {have} there and '
        f'{want} here); use the configuration it was trained with, or another run directory'
      )
    with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
      return handler.restore(self.path / str(step) / 'state', args=ocp.args.StandardRestore(abstract))

  def _set_aside(self, steps: list[int]) -> None:
    """Removes damaged checkpoints from the folder, so that they do not count as the latest."""
    if not steps or self._read_only:
      return
    for step in steps:
      if stores.is_remote(self.path):
        self._manager.delete(step)  # an object store renames nothing
      elif jax.process_index() == 0:
        names = itertools.chain([f'damaged_{step}'], (f'damaged_{step}_{n}' for n in itertools.count(2)))
        free = next(name for name in names if not (self.path.parent / name).exists())
        (self.path / str(step)).rename(self.path.parent / free)
    # Who looked before that would take the step for one that is saved, and leave out what the others do.
    _any_process(False)
    self._manager.reload()

  def wait(self) -> None:
    """Waits for the save under way."""
    with _saving(self.path):
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the save under way, and ends."""
    try:
      self.wait()
    finally:
      self._manager.close()


def _any_process(this: bool) -> bool:
  """Whether it is so on any process of the run; all of them wait here for each other."""
  if jax.process_count() == 1:
    return this
  return bool(np.any(multihost_utils.process_allgather(np.asarray(this))))


@contextlib.contextmanager
def _saving(path: epath.Path) -> Iterator[None]:
  """One sentence where the storage takes no more; the save in the background fails in whatever comes next."""
  try:
    yield
  except (ValueError, OSError) as error:
    told = ' '.join(str(error).split())
    for sign, reason in STORAGE.items():
      if sign in told:
        raise errors.InputError(
          f'{path}: a checkpoint could not be written ({reason}); mend that and run the same command, '
          'which goes on from the last complete one'
        ) from error
    raise


def _reason(error: Exception) -> str:
  """The first line of what Orbax and TensorStore say, without their traces."""
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _folder(run_dir: epath.PathLike) -> epath.Path:
  """Where a run's checkpoints lie.

  Raises:
    errors.ConfigError: Orbax does not write there.
  """
  path = epath.Path(run_dir) / 'checkpoints'
  if not stores.is_remote(path):
    return path.resolve()
  stores.address(os.fspath(path))
  if not os.fspath(path).startswith('gs://'):
    raise errors.ConfigError(
      f'{run_dir}: Orbax writes checkpoints to this machine and to gs:// only; name such a folder for the run'
    )
  return path


def abstract(state: Any) -> Any:
  """Shapes, dtypes and shardings of a state, without its values."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _open(path: epath.Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
  """A manager of the folder; one that only reads may do so while a run goes on in it."""
  tries = LISTINGS if options.read_only else 1
  while True:
    tries -= 1
    try:
      return ocp.CheckpointManager(path, options=options)
    except FileNotFoundError:  # deleted between the listing and the look at it
      if not tries:
        raise


def _steps(path: epath.Path) -> Iterator[int]:
  with _open(path, ocp.CheckpointManagerOptions(read_only=True)) as manager:
    yield from sorted(manager.all_steps(), reverse=True)


def restore_arrays(run_dir: epath.PathLike) -> tuple[dict, int]:
  """(state, step) of a run's newest whole checkpoint as nested dictionaries of NumPy arrays.

  Raises:
    errors.BundleError: there is no complete checkpoint, or none can be read.
  """
  path = _folder(run_dir)
  if not path.exists():
    raise errors.BundleError(f'{run_dir}: there is no checkpoint; train the run first')
  found = False
  for step in _steps(path):
    found = True
    try:
      with _open(path, ocp.CheckpointManagerOptions(read_only=True)) as manager:
        about = manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))['data']
      with ocp.PyTreeCheckpointer() as reader:
        folder = path / str(step) / 'state'
        tree = reader.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = reader.restore(folder, restore_args=as_numpy)
      if digest(state) != about['digest']:
        raise ValueError('its checksum is another')
      return state, about['step']
    except MemoryError:
      raise
    except Exception as error:
      warnings.warn(f'{path}/{step}: the checkpoint is damaged ({_reason(error)})', stacklevel=2)
  raise errors.BundleError(
    f'{run_dir}: {"no checkpoint can be read" if found else "there is no complete checkpoint"}; '
    'train the run first'
  )
