"""Programs that later processes take as an earlier one has lowered them.

JAX's own cache spares a process the compiling, but is asked with the lowered program: without one every
process traces and lowers its networks anew, which for small ones takes several times as long as running them.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import os
import pathlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

import flax
import jax
import jaxlib
from jax import core, export

from v2meow_jax import files, partitioning, stores

BYTES = 2**28  # of all that is kept; what was not used for longest goes first
# Configuration under which people want to see what a function does, one operation after the other.
_SEEN = ('jax_disable_jit', 'jax_debug_nans', 'jax_debug_infs')
_HASHED = 32  # bytes before a program, by which one that is damaged is known


class Kept:
  """A function as `jax.jit` makes it, whose programs are kept beside those that JAX's own cache has compiled.

  Kept are those of processes whose one device is a CPU, as it was measured there alone (on GPUs kernels of
  libraries cannot be exported), and with a cache on this machine. Within functions that are traced
  themselves, within a partitioner's mesh, and of networks that are not this package's, it is `jax.jit`'s.

  Args:
    function: of trees of arrays; its result is one too, of tuples, lists and dictionaries alone.
    static: names of its arguments that are none; all that there is to one is in its type and `repr`.
    closed_over: what else the program hangs on: what the function reads besides its arguments.
  """

  def __init__(self, function: Callable, static: Iterable[str] = (), closed_over: Any = None):
    self.jitted = jax.jit(function, static_argnames=tuple(static))
    self._function, self._static, self._closed_over = function, frozenset(static), closed_over
    self._signature = inspect.signature(function)
    self._ready: dict[Any, Callable] = {}
    self._making = threading.RLock()

  def __call__(self, *args: Any, **settings: Any) -> Any:
    folder = _folder()
    if folder is None or not on_one_cpu() or any(getattr(jax.config, name, False) for name in _SEEN):
      return self.jitted(*args, **settings)
    given = self._signature.bind(*args, **settings).arguments
    static = {name: given.pop(name) for name in sorted(self._static & given.keys())}
    leaves, tree = jax.tree.flatten(dict(given))
    if any(isinstance(leaf, core.Tracer) for leaf in leaves):
      return self.jitted(*args, **settings)
    key = (tuple(static.items()), tree, tuple(map(jax.typeof, leaves)), _settings())
    with self._making:  # once, if several threads want it
      if key not in self._ready:
        # Of leaves alone: what is exported knows no types of ours.
        flat = jax.jit(lambda *leaves: self._function(**static, **jax.tree.unflatten(tree, leaves)))
        path = folder / self._name([*map(_told, static.items()), *map(str, key[1:])])
        ours = _is_code(self._function) and _is_ours((*static.values(), self._closed_over))
        self._ready[key] = (_found(path) or _made(path, flat, leaves)) if ours else flat
    return self._ready[key](*leaves)

  def _name(self, told: list[str]) -> str:
    here = [self._function.__module__, self._function.__qualname__, repr(self._closed_over), *_machine()]
    return hashlib.sha256('\n'.join([*here, str(_CODE), *told]).encode()).hexdigest()


def _told(setting: tuple[str, Any]) -> str:
  name, value = setting
  return f'{name} {type(value).__module__}.{type(value).__qualname__} {value!r}'


def _found(path: pathlib.Path) -> Callable | None:
  """The program that a file holds; one that is damaged is as good as none."""
  with contextlib.suppress(Exception):
    data = path.read_bytes()
    if hashlib.sha256(data[_HASHED:]).digest() == data[:_HASHED]:
      exported = export.deserialize(bytearray(data[_HASHED:]))
      with contextlib.suppress(OSError):  # it may be another's, to be read alone
        os.utime(path)
      return jax.jit(exported.call)
  return None


def _made(path: pathlib.Path, function: Any, leaves: list) -> Callable:
  """The function's program, which the file holds from now on if that can be.

  Not everything that can be run can be exported, nor all folders be written to, and neither keeps anything
  from running.
  """
  try:
    exported = export.export(function)(*leaves)
    data = bytes(exported.serialize())
  except Exception:
    return function  # if something else is wrong, it will say so
  with contextlib.suppress(OSError):
    path.parent.mkdir(parents=True, exist_ok=True)
    if _code() == _CODE:  # or else what was traced is not what lies there now
      files.write_bytes(path, hashlib.sha256(data).digest() + data)
    _bound(path.parent)
  return jax.jit(exported.call)


def _bound(folder: pathlib.Path) -> None:
  """Removes what was not used for longest, where there is too much."""
  found = [(path.stat(), path) for path in folder.iterdir()]
  left = BYTES
  for stat, path in sorted(found, key=lambda pair: pair[0].st_mtime, reverse=True):
    left -= stat.st_size
    if left < 0:
      path.unlink(missing_ok=True)


def _folder() -> pathlib.Path | None:
  place = jax.config.values['jax_compilation_cache_dir']
  there = place and jax.config.values['jax_enable_compilation_cache'] and not stores.is_remote(place)
  return pathlib.Path(place, 'lowered') if there and _CODE is not None else None


def _is_code(what: Any) -> bool:
  """Whether a function or type is this package's, or Python's."""
  return what.__module__.split('.')[0] in (__package__, 'builtins', 'fractions')


def _is_ours(value: Any) -> bool:
  """Whether a value is of such types throughout, so that a hash of this package's code tells all theirs."""
  parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
  if dataclasses.is_dataclass(value):
    # What is not shown, a Linen module's parent for one, is no setting.
    parts = [getattr(value, field.name) for field in dataclasses.fields(value) if field.repr]
  return _is_code(type(value)) and all(map(_is_ours, parts))


def on_one_cpu() -> bool:
  """Whether what this process computes here is for its one device, a CPU, outside of a partitioner's mesh."""
  return jax.default_backend() == 'cpu' and jax.device_count() == 1 and partitioning.current() is None


def settings_are_shared() -> bool:
  """Whether other threads have JAX's settings as this one has, where no block changes them."""
  with concurrent.futures.ThreadPoolExecutor(1) as other:
    return other.submit(_settings).result() == _settings()


def _settings() -> tuple:
  """JAX's, which say how functions are traced and lowered, those of a block (`jax.enable_x64`) among them."""
  return tuple(getattr(jax.config, name, value) for name, value in jax.config.values.items())


@functools.cache
def _machine() -> tuple[str, ...]:
  device = jax.devices()[0]
  return device.platform, device.device_kind, jax.__version__, jaxlib.__version__, flax.__version__


def _code() -> str | None:
  """A hash of this package's code; None where it cannot be read, as in an archive."""
  digest = hashlib.sha256()
  paths = [path for path in pathlib.Path(__file__).parent.rglob('*.py') if not path.name.startswith('.')]
  try:
    for path in sorted(paths):
      digest.update(path.read_bytes())
  except OSError:
    return None
  return digest.hexdigest() if paths else None


_CODE = _code()  # as it was imported
