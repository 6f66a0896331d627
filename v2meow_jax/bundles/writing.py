"""Writes bundles: a folder of safetensors files and one JSON, which appears when it is complete."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import types as builtin_types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util
from safetensors.numpy import save as save_safetensors

from v2meow_jax import errors, files
from v2meow_jax.bundles import stablehlo as programs
from v2meow_jax.bundles import types
from v2meow_jax.bundles.types import FORMAT
from v2meow_jax.encoders import registry

NOTHING: Mapping[str, pathlib.Path] = builtin_types.MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Network:
  """Weights with the JSON that describes them, on their way into a bundle.

  Attributes:
    name: the file's, without suffix.
    about: what `bundle.json` says.
    weights: nested dictionaries of arrays.
  """

  name: str
  about: dict[str, Any]
  weights: dict[str, Any]


def write(
  directory: epath.PathLike,
  *,
  codec: Network,
  stages: list[Network],
  encoders: list[dict],
  token_encoders: Sequence[dict] = (),
  fitted: Mapping[str, pathlib.Path] = NOTHING,
  dtype: str = 'float32',
  stablehlo: bool = False,
  about: dict[str, Any] | None = None,
) -> None:
  """Writes a bundle; the folder appears only when it is complete.

  Args:
    directory: must not exist.
    codec: `about` holds `config` and `identity`.
    stages: `about` holds `stage`, `transformer` and `sampling`, in the order in which they run.
    encoders: identities of the encoders of the streams that no stage makes.
    token_encoders: identities of those of streams that stages make, but for the codec and what is fitted.
    fitted: files of what the encoders of the training data had learned, by the encoder's name.
    dtype: that weights are stored in, `float32` or `float16` (half the size; they are float32 in use).
    stablehlo: also write every stage's prefill and step as programs; see `bundles.stablehlo`.
    about: name, licence, provenance.

  Raises:
    errors.BundleError: the folder exists, or weights do not fit the dtype.
  """
  directory = epath.Path(directory)
  if directory.exists():
    raise errors.BundleError(f'{directory}: exists already; name another folder or remove it')
  with files.folder_when_done(directory, 'bundle.json') as temporary:
    told = {'format': FORMAT, **(about or {})}
    told['codec'] = codec.about | _save(temporary, codec, dtype)
    told['stages'] = [network.about | _save(temporary, network, dtype) for network in stages]
    told['encoders'] = encoders
    if token_encoders:
      told['token_encoders'] = list(token_encoders)
    if stablehlo:
      runners = [types.runner(network.about, network.weights) for network in stages]
      told['stablehlo'] = [
        describe_file(path) for runner in runners for path in programs.write(runner, temporary)
      ]
    for entry in registry.fitted():
      if entry.name in fitted:
        shutil.copyfile(fitted[entry.name], temporary / entry.file)
        told[entry.name] = describe_file(temporary / entry.file)
    (temporary / 'bundle.json').write_text(json.dumps(told, indent=2) + '\n')


def describe_file(path: pathlib.Path) -> dict[str, str]:
  """A file's name and hash."""
  return {'file': path.name, 'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}


def _save(directory: pathlib.Path, network: Network, dtype: str) -> dict[str, str]:
  """Writes a network's file; its name and hash."""
  flat = {}
  for name, value in traverse_util.flatten_dict(network.weights, sep='/').items():
    stored = np.ascontiguousarray(value, dtype)
    if not np.isfinite(stored).all():
      raise errors.BundleError(f'{network.name}: {name} has values that are not finite in {dtype}')
    flat[name] = stored
  path = directory / f'{network.name}.safetensors'
  path.write_bytes(save_safetensors(flat))
  return describe_file(path)
