"""What a report's figures were made by: enough to make them again."""

import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from v2meow_jax import __version__

PACKAGES = ('jax', 'flax', 'numpy', 'scipy', 'librosa', 'soxr', 'av')


def describe(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Versions, machine, command and time, and the settings given."""
  return {
    'v2meow_jax': __version__,
    'command': shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
    'made': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'versions': {name: importlib.metadata.version(name) for name in PACKAGES},
    'python': platform.python_version(),
    'machine': platform.machine(),
    'device': jax.devices()[0].device_kind,
    **settings,
  }


def digest(path: str | os.PathLike) -> str:
  """SHA-256 of a file."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def hashed(values: np.ndarray) -> str:
  """SHA-256 of an array's values."""
  return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
