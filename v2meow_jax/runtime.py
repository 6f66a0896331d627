"""How a command has JAX run networks: compiled programs are kept, and on CPUs memory is used again."""

import ctypes
import glob
import importlib.util
import os

from v2meow_jax import files, stores

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
GPU_PLUGINS = ('jax_cuda12_plugin', 'jax_cuda13_plugin', 'jax_rocm7_plugin')


def begin() -> None:
  """To be called before JAX looks for devices: where it would find nothing but CPUs, memory is used again."""
  found = importlib.util.find_spec
  gpu = any(map(found, GPU_PLUGINS))
  # libtpu complains at length where there is no TPU, so there it is not looked for.
  if found('libtpu') and not _tpu() and not gpu:
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  chosen = os.environ.get('JAX_PLATFORMS')
  if chosen == 'cpu' or not (chosen or gpu or found('libtpu')):
    use_memory_again()


def _tpu() -> bool:
  names = glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*')
  return bool(names) or any('TPU_' in name for name in os.environ)


def set_up(run_dir: str = '') -> None:
  """To be called once the process knows its devices, before anything is compiled.

  Args:
    run_dir: of a run. One on an object store keeps its programs beside its checkpoints, where whichever
      machine it is resumed on finds them.
  """
  begin()
  _keep_programs(run_dir)
  import jax

  if jax.default_backend() == 'cpu':
    use_memory_again()


def use_memory_again() -> None:
  """What the process frees it keeps for its next arrays, instead of giving it back to the system.

  By default glibc asks the system for every array above 32 MiB and gives it back at once, and each thread
  has memory of its own, of which it gives back 64 MiB whenever they are free: each page is filled with zeros
  before it is written, which on CPUs takes several times as long as an element-wise function of the array.
  The process stays as large as it was at its largest, and where the place of a large array was given to a
  small one meanwhile, the next as large lies beside it; see `give_back`. Threads that have memory of their
  own keep it, so this comes before JAX begins its. Without glibc it does nothing.
  """
  mallopt = getattr(_libc(), 'mallopt', None)
  if mallopt is not None:
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
    mallopt(M_ARENA_MAX, 1)


def give_back(least: int = 2**30) -> None:
  """Gives what the process keeps but does not use back to the system, if it is so many bytes.

  Between pieces of work that each take long and have arrays of gigabytes, which else might lie beside where
  the last ones were. What was given back before counts as free. Without glibc 2.33 it does nothing.
  """
  libc = _libc()
  if libc is not None and hasattr(libc, 'malloc_trim') and hasattr(libc, 'mallinfo2'):
    libc.mallinfo2.restype = _Mallinfo
    if libc.mallinfo2().fordblks >= least:
      libc.malloc_trim(0)


def _libc() -> ctypes.CDLL | None:
  try:
    return ctypes.CDLL(None)
  except (OSError, TypeError):  # a Python without one that can be asked
    return None


class _Mallinfo(ctypes.Structure):
  """glibc's mallinfo2(3); `fordblks` are bytes that are free."""

  _fields_ = tuple((name, ctypes.c_size_t) for name in (
    'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks', 'fordblks', 'keepcost',
  ))  # fmt: skip


def _keep_programs(run_dir: str) -> None:
  """In the user's cache folder, unless the user says by JAX's own variable where or that not."""
  import jax

  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    if not os.environ['JAX_COMPILATION_CACHE_DIR']:  # JAX would take it for the current folder here and there
      jax.config.update('jax_compilation_cache_dir', None)
    return
  remote = stores.is_remote(run_dir)
  place = f'{run_dir.rstrip("/")}/compiled' if remote else str(files.cache() / 'compiled')
  jax.config.update('jax_compilation_cache_dir', place)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
