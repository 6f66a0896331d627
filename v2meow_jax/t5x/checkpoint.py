"""T5X's checkpoints, read and written without T5X.

There are two formats. The older one is a file `checkpoint`, a msgpack of the state in which large arrays
are TensorStore specs of zarr folders beside it. The newer one, since 2023, is Orbax's, in a folder `state`.
Both hold the same tree: `target` (the parameters), `state/step`, `state/param_states`, and `flax_mutables`
where a model has any. Here a tree is flat, with `/` between the names.
"""

import concurrent.futures
import dataclasses
import logging
import math
import pathlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from flax import serialization, traverse_util

from v2meow_jax import errors, stores

VERSION = 3  # of the msgpack format; since 2021-06
CHUNK_BYTES = 64 << 20
_SPEC = {'driver', 'kvstore', 'metadata'}
_READERS = 8  # arrays read at a time


def flat(tree: Any) -> dict[str, Any]:
  """A nested tree's leaves by their names, joined by `/`."""
  return dict(traverse_util.flatten_dict(tree, sep='/'))  # type: ignore[arg-type] (keys are joined)


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Inverse of `flat`."""
  return traverse_util.unflatten_dict(dict(arrays), sep='/')


Load = Callable[[Sequence[str]], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Array:
  """What a checkpoint says of an array."""

  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def size(self) -> int:
    """Bytes."""
    return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A checkpoint that has been opened.

  Attributes:
    directory: of it.
    format: `msgpack` or `orbax`.
    arrays: by name.
    load: reads some of them.
  """

  directory: epath.Path
  format: str
  arrays: Mapping[str, Array]
  load: Load

  @property
  def step(self) -> int:
    """Updates made; 0 where the checkpoint does not say."""
    step = self.arrays.get('state/step')
    return 0 if step is None else int(self.read(['state/step'])['state/step'])

  def part(self, name: str) -> dict[str, Array]:
    """The arrays under a name such as `target`, by the rest of their names."""
    start = f'{name}/'
    return {key[len(start) :]: value for key, value in self.arrays.items() if key.startswith(start)}

  def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays by name.

    Raises:
      errors.BundleError: one is damaged.
    """

    told = f'{self.directory}: the checkpoint is damaged'
    with errors.translated(errors.BundleError, told):
      return self.load(list(names))


def find(directory: epath.PathLike) -> epath.Path:
  """The checkpoint that a path names: itself, or the latest `checkpoint_STEP` in it.

  Raises:
    errors.BundleError: there is none.
  """
  path = epath.Path(directory)
  if path.is_dir():
    if _is_msgpack(path) or _orbax_folder(path) is not None:
      return path
    steps = {
      int(child.name.removeprefix('checkpoint_')): child
      for child in path.iterdir()
      if re.fullmatch(r'checkpoint_\d+', child.name)
    }
    if steps:
      return steps[max(steps)]
  elif path.name == 'checkpoint' and path.exists():
    return path.parent
  told = 'there is nothing there' if not path.exists() else 'no T5X checkpoint there'
  raise errors.BundleError(
    f'{directory}: {told}; name a folder checkpoint_STEP, or the model_dir that it lies in'
  )


def _is_msgpack(path: epath.Path) -> bool:
  return (path / 'checkpoint').is_file()


def _orbax_folder(path: epath.Path) -> epath.Path | None:
  folders = (path / 'state', path)
  return next((folder for folder in folders if (folder / '_METADATA').exists()), None)


def read(directory: epath.PathLike) -> Checkpoint:
  """Opens a checkpoint, or the latest of a model_dir; arrays are read when they are asked for.

  Raises:
    errors.BundleError: there is none, it is damaged, or of another version or library.
  """
  path = find(directory)
  folder = _orbax_folder(path)
  if folder is not None:
    return Checkpoint(path, 'orbax', *_of_orbax(folder))
  if not _is_msgpack(path):
    raise errors.BundleError(
      f'{path}: neither a file "checkpoint" nor a folder "state" of Orbax there; the checkpoint is incomplete'
    )
  return Checkpoint(path, 'msgpack', *_of_msgpack(path))


def _of_msgpack(path: epath.Path) -> tuple[dict[str, Array], Load]:
  data = (path / 'checkpoint').read_bytes()
  if data.startswith(b'model_checkpoint_path'):
    raise errors.BundleError(
      f'{path}: a TensorFlow checkpoint, as Mesh TensorFlow wrote them; let T5X convert it first '
      '(t5x/scripts/convert_tf_checkpoint.py)'
    )
  with errors.translated(errors.BundleError, f'{path}: its file "checkpoint" is damaged'):
    tree = serialization.msgpack_restore(data)
  if not isinstance(tree, dict) or not isinstance(tree.get('optimizer'), dict):
    raise errors.BundleError(f'{path}: its file "checkpoint" holds no T5X state (there is no "optimizer")')
  version = tree.get('version', VERSION)
  if not isinstance(version, int) or version > VERSION:
    raise errors.BundleError(
      f'{path}: version {version!r} of the format; up to {VERSION} can be read, so write it with Orbax '
      '(train.use_orbax = True)'
    )
  leaves = traverse_util.flatten_dict(tree['optimizer'], is_leaf=lambda _, x: x.keys() >= _SPEC, sep='/')
  leaves = {str(name): leaf for name, leaf in leaves.items() if leaf is not None}
  arrays, folders = {}, {}
  for name, leaf in leaves.items():
    if isinstance(leaf, dict):
      with errors.translated(errors.BundleError, f'{path}: {name} is described in a way that is not known'):
        arrays[name], folders[name] = _described(path, leaf)
    else:
      value = np.asarray(leaf)
      if value.dtype == object:
        raise errors.BundleError(f'{path}: {name} is no array; the checkpoint is damaged')
      arrays[name] = Array(value.shape, value.dtype)

  def load(names: Sequence[str]) -> dict[str, np.ndarray]:
    def one(name):
      if name not in folders:
        return np.asarray(leaves[name])
      with errors.translated(errors.BundleError, f'{path}: {name} cannot be read'):
        return _of_zarr(folders[name], arrays[name])

    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
      return dict(zip(names, pool.map(one, names), strict=True))

  return arrays, load


def _described(path: epath.Path, spec: dict[str, Any]) -> tuple[Array, epath.Path]:
  """What a TensorStore spec says of an array, and where it lies."""
  name = str(spec['kvstore'].get('path') or spec['path']).rstrip('/')
  # Written relative to the checkpoint; nothing outside of it is read.
  if spec['driver'] != 'zarr' or '/' in name or name in ('', '.', '..'):
    raise ValueError(f'{spec["driver"]} at {name!r}')
  dtype = spec.get('dtype') or np.dtype(spec['metadata']['dtype']).name
  # Version 2 kept bfloat16 as uint16, and T5X has no parameters of that type.
  stored = np.dtype(ml_dtypes.bfloat16 if dtype in ('bfloat16', 'uint16') else dtype)
  return Array(tuple(int(size) for size in spec['metadata']['shape']), stored), path / name


def _of_zarr(folder: epath.Path, about: Array) -> np.ndarray:
  if not (folder / '.zarray').exists():
    raise ValueError(f'there is no {folder.name}')
  # Without the last setting a chunk that is gone would be read as zeros.
  spec = {'driver': 'zarr', 'kvstore': _store(folder), 'fill_missing_data_reads': False}
  try:
    values = ts.open(spec, read=True, open=True).result().read().result()
  except Exception as error:
    # Of many kinds. The path is told anyway, and would leave no room for the reason.
    raise ValueError(str(error).replace(f'{folder}/', '')) from error
  if values.dtype == np.uint16:
    values = values.view(ml_dtypes.bfloat16)
  if (values.shape, values.dtype) != (about.shape, about.dtype):
    raise ValueError(f'{values.dtype} {values.shape} where {about.dtype} {about.shape} is announced')
  return values


def _store(path: epath.Path) -> Any:
  """TensorStore's key-value store of a folder."""
  return (
    f'{path}/' if stores.is_remote(path) else {'driver': 'file', 'path': f'{pathlib.Path(path).resolve()}/'}
  )


def _of_orbax(folder: epath.Path) -> tuple[dict[str, Array], Load]:
  logging.getLogger('absl').setLevel(logging.ERROR)  # that T5X writes no _CHECKPOINT_METADATA there
  folder = folder if stores.is_remote(folder) else epath.Path(pathlib.Path(folder).resolve())
  told = f'{folder}: damaged, or written by a version of Orbax that is not known'
  with errors.translated(errors.BundleError, told), ocp.PyTreeCheckpointer() as reader:
    found = flat(reader.metadata(folder).item_metadata.tree)
    # Scalars say nothing of themselves but their type.
    arrays = {
      name: Array(tuple(getattr(about, 'shape', ())), np.dtype(about.dtype)) for name, about in found.items()
    }

  def load(names: Sequence[str]) -> dict[str, np.ndarray]:
    def wanted(value):
      return nested(dict.fromkeys(names, value))

    with ocp.PyTreeCheckpointer() as reader:
      as_numpy = wanted(ocp.RestoreArgs(restore_type=np.ndarray))
      args = ocp.args.PyTreeRestore(item=wanted(0), restore_args=as_numpy, partial_restore=True)
      made = flat(reader.restore(folder, args=args))
    return {name: np.asarray(made[name]) for name in names}

  return arrays, load


def write(directory: epath.PathLike, step: int, state: Mapping[str, np.ndarray]) -> epath.Path:
  """Writes `directory/checkpoint_STEP` in the format of msgpack and zarr, which every T5X reads.

  Args:
    directory: a model_dir; made where there is none.
    step: updates made.
    state: arrays by name, such as `target/...` and `state/param_states/...`; `state/step` is added.

  Returns:
    The checkpoint's folder.

  Raises:
    errors.BundleError: there is one of this step.
  """
  final = pathlib.Path(directory) / f'checkpoint_{step}'
  if final.exists():
    raise errors.BundleError(f'{final}: there is a checkpoint of this step already; name another folder')
  arrays: dict[str, Any] = dict(state) | {'state/step': np.int32(step)}
  temporary = final.with_name(f'.{uuid.uuid4().hex[:12]}.tmp')
  temporary.mkdir(parents=True)
  try:
    pending = []
    for name, value in list(arrays.items()):
      value = np.asarray(value)
      # What T5X keeps whole on every host it looks for in the msgpack: steps, and factors of moments.
      if name.rsplit('/', 1)[-1] in ('step', 'v_row', 'v_col', 'count') or value.shape in ((), (1,)):
        arrays[name] = value
        continue
      folder = name.replace('/', '.')
      about = {'compressor': {'id': 'gzip'}, 'shape': list(value.shape), 'chunks': chunks(value)}
      spec = {'driver': 'zarr', 'dtype': value.dtype.name, 'metadata': about}
      store = ts.open(spec | {'kvstore': _store(epath.Path(temporary / folder))}, create=True).result()
      pending.append(store.write(value))
      arrays[name] = spec | {'kvstore': {'driver': 'file', 'path': f'{folder}/'}}
    for written in pending:
      written.result()
    tree = {'version': VERSION, 'optimizer': nested(arrays)}
    (temporary / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))
    temporary.rename(final)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  return epath.Path(final)


def chunks(value: np.ndarray) -> list[int]:
  """Shape of the chunks that an array is written in: the largest dimension halved until one is 64 MiB."""
  shape = list(value.shape)
  while math.prod(shape) * value.dtype.itemsize > CHUNK_BYTES:
    largest = shape.index(max(shape))
    shape[largest] = -(-shape[largest] // 2)
  return shape
