"""Programs that later processes take as an earlier one has lowered them.

JAX's own cache spares a process the compiling, but is asked with the lowered program: without one every
process traces and lowers its networks anew, which for small ones takes several times as long as running them.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import flax
import jax
from jax import core, export

from v2meow_jax import files, stores

UNUSED_SECONDS = 30 * 86400.0  # after which a program is removed


class Kept:
  """A function as `jax.jit` makes it, whose programs are kept beside those that JAX's own cache has compiled.

  Kept are those of processes with one device, and with a cache on this machine. Within functions that are
  traced themselves, and where a program cannot be exported, it is `jax.jit`'s.

  Args:
    function: of trees of arrays; its result is one too, of tuples, lists and dictionaries alone.
    static: names of its arguments that are none; all that there is to one is in its `repr`.
    about: what else the program hangs on, such as what the function closes over.
  """

  def __init__(self, function: Callable, static: Iterable[str] = (), about: str = ''):
    self.jitted = jax.jit(function, static_argnames=tuple(static))
    self._function, self._static, self._about = function, frozenset(static), about
    self._signature = inspect.signature(function)
    self._ready: dict[str, Callable] = {}

  def __call__(self, *args: Any, **settings: Any) -> Any:
    given = self._signature.bind(*args, **settings).arguments
    static = {name: given.pop(name) for name in sorted(self._static & given.keys())}
    leaves, tree = jax.tree.flatten(dict(given))
    traced = any(isinstance(leaf, core.Tracer) for leaf in leaves)
    folder = _folder()
    if folder is None or traced or jax.device_count() > 1:
      return self.jitted(*args, **settings)
    parts = [self._function.__module__, self._function.__qualname__, self._about, repr(static), str(tree)]
    told = '\n'.join([*parts, *[str(jax.typeof(leaf)) for leaf in leaves], _settings(), _installed()])
    name = hashlib.sha256(told.encode()).hexdigest()
    if name not in self._ready:
      exported = self._kept(folder / name, static, tree, leaves)
      self._ready[name] = jax.jit(exported.call) if exported else self._plain(static, tree)
    return self._ready[name](*leaves)

  def _plain(self, static: dict[str, Any], tree: Any) -> Any:
    return jax.jit(lambda *leaves: self._function(**static, **jax.tree.unflatten(tree, leaves)))

  def _kept(self, path: pathlib.Path, static: dict, tree: Any, leaves: list) -> export.Exported | None:
    """The program that a file holds; or else, exported now, the one that it holds from now on."""
    # A file that is damaged, or that another version wrote, is as good as none.
    with contextlib.suppress(Exception):
      exported = export.deserialize(bytearray(path.read_bytes()))
      os.utime(path)
      return exported
    try:
      exported = export.export(self._plain(static, tree))(*leaves)
      data = exported.serialize()
    except (ValueError, NotImplementedError):  # not everything that can be run can be exported
      return None
    # A folder that cannot be written to costs the next process its time, and nobody anything else.
    with contextlib.suppress(OSError):
      path.parent.mkdir(parents=True, exist_ok=True)
      _clear(path.parent)
      files.write_bytes(path, bytes(data))
    return exported


def _folder() -> pathlib.Path | None:
  place = jax.config.values['jax_compilation_cache_dir']
  there = place and jax.config.values['jax_enable_compilation_cache'] and not stores.is_remote(place)
  return pathlib.Path(place, 'lowered') if there else None


def _clear(folder: pathlib.Path) -> None:
  """Removes what nobody has used for long."""
  for path in folder.iterdir():
    with contextlib.suppress(FileNotFoundError):
      if time.time() - path.stat().st_mtime > UNUSED_SECONDS:
        path.unlink()


def _settings() -> str:
  """JAX's, which say how functions are traced and lowered."""
  # Of the configuration of a block, `jax.enable_x64` for one, its attributes tell.
  known = jax.config.values.items()
  return repr([(name, getattr(jax.config, name, value)) for name, value in known if 'cache' not in name])


@functools.cache
def _installed() -> str:
  """Device, versions, and a hash of this package's code."""
  device, digest = jax.devices()[0], hashlib.sha256()
  for path in sorted(pathlib.Path(__file__).parent.rglob('*.py')):
    digest.update(path.read_bytes())
  versions = jax.__version__, flax.__version__
  return repr((device.platform, device.device_kind, *versions, digest.hexdigest()))
