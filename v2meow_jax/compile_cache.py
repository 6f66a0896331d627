"""Compiled programs that are kept between runs, so that only the first one on a machine compiles."""

import os
import pathlib


def keep() -> None:
  """Keeps them in the user's cache folder, unless the user says by JAX's own variable where or that not."""
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  import jax

  home = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
  jax.config.update('jax_compilation_cache_dir', str(home / 'v2meow_jax' / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
