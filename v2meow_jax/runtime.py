"""How a command has JAX run networks: compiled programs are kept, and on CPUs memory is used again."""

import ctypes
import os

from v2meow_jax import files, stores

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def set_up(run_dir: str = '') -> None:
  """To be called once the process knows its devices, before anything is compiled.

  Args:
    run_dir: of a run. One on an object store keeps its programs beside its checkpoints, where whichever
      machine it is resumed on finds them.
  """
  _keep_programs(run_dir)
  import jax

  if jax.default_backend() == 'cpu':
    use_memory_again()


def use_memory_again() -> None:
  """What the process frees it keeps for its next arrays, instead of giving it back to the system.

  By default glibc asks the system for every array above 32 MiB and gives it back at once, so that
  each is filled with zeros, a page at a time, before it is written: on CPUs this takes several times as long
  as an element-wise function of the array. The process stays as large as it was at its largest. Without
  glibc it does nothing.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is not None:
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


def _keep_programs(run_dir: str) -> None:
  """In the user's cache folder, unless the user says by JAX's own variable where or that not."""
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  import jax

  remote = stores.is_remote(run_dir)
  place = f'{run_dir.rstrip("/")}/compiled' if remote else str(files.cache() / 'compiled')
  jax.config.update('jax_compilation_cache_dir', place)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
