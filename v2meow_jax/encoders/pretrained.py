"""Networks of the `transformers` library as frozen encoders: where they come from and which weights they are.

PyTorch and transformers are the extra `encoders`; nothing else here imports them.
"""

import hashlib
import os
from typing import Any

from v2meow_jax import errors


def load(kind: str, processor: str, source: str) -> tuple[Any, Any]:
  """(model, processor) from a folder, or from the hub's cache or the hub by an id.

  Args:
    kind: the model's class in transformers, such as `ClapModel`.
    processor: the processor's.
    source: folder or id.

  Raises:
    errors.ConfigError: the library is not installed, or nothing of that name can be loaded.
  """
  try:
    os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
    import torch  # type: ignore[import-not-found]
    import transformers  # type: ignore[import-not-found]
  except ImportError as error:
    raise errors.ConfigError(
      f'{kind} needs PyTorch and transformers; install v2meow-jax with the extra "encoders"'
    ) from error
  transformers.utils.logging.disable_progress_bar()
  try:
    model = getattr(transformers, kind).from_pretrained(source, dtype=torch.float32)
    made = getattr(transformers, processor).from_pretrained(source)
  except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
    said = str(error).strip().splitlines()
    raise errors.ConfigError(
      f'{source}: no {kind} can be loaded from there ({said[0] if said else type(error).__name__}); '
      'give the folder of the model'
    ) from error
  return model.eval().requires_grad_(False), made


def weights_hash(model: Any) -> str:
  """A hash of the weights, whatever file format they came from."""
  digest = hashlib.sha256()
  for name, tensor in sorted(model.state_dict().items()):
    digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
  return digest.hexdigest()


def name_of(source: str) -> str:
  """How a source is called in an identity: an id as it is, a folder or file by its own name."""
  is_path = os.path.isabs(source) or os.path.exists(source)
  return os.path.basename(os.path.normpath(source)) if is_path else source
