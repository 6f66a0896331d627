"""Compiled programs that are kept between runs, so that only the first one on a machine compiles."""

import os

from v2meow_jax import files


def keep() -> None:
  """Keeps them in the user's cache folder, unless the user says by JAX's own variable where or that not."""
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  import jax

  jax.config.update('jax_compilation_cache_dir', str(files.cache() / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
