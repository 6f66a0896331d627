"""V2Meow in JAX: music for a video, by three Transformers over audio tokens and a neural codec."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from v2meow_jax.bundles.bundle import Bundle as Bundle
  from v2meow_jax.generation.pipeline import Pipeline as Pipeline
  from v2meow_jax.generation.request import Request as Request
  from v2meow_jax.sampling import Sampling as Sampling

__version__ = '0.1.0'

_PUBLIC = {
  'Bundle': 'bundles.bundle',
  'Pipeline': 'generation.pipeline',
  'Request': 'generation.request',
  'Sampling': 'sampling',
}


def __getattr__(name: str) -> Any:
  # Imported when asked for: `v2meow --help` needs no JAX.
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  import importlib

  return getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)
