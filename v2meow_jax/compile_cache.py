"""Compiled programs that are kept between runs, so that only the first one on a machine compiles."""

import os

from v2meow_jax import files, stores


def keep(run_dir: str = '') -> None:
  """Keeps them in the user's cache folder, unless the user says by JAX's own variable where or that not.

  Args:
    run_dir: of a run. One on an object store keeps its programs beside its checkpoints, where whichever
      machine it is resumed on finds them.
  """
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  import jax

  remote = stores.is_remote(run_dir)
  place = f'{run_dir.rstrip("/")}/compiled' if remote else str(files.cache() / 'compiled')
  jax.config.update('jax_compilation_cache_dir', place)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
