"""The portable artefact that generation reads: a folder of safetensors files and one JSON.

    bundle.json            what the parts are: settings, streams, sampling, provenance, licence, hashes
    codec.safetensors      codec parameters and codebooks
    stage_NAME.safetensors a file a stage
    semantic.safetensors   the semantic encoder that the training data was made with
    style.safetensors      the codebooks of style tokens, where there are any
    tokens.safetensors     those of tokens of an embedding, where there are any
    stage_NAME.*.stablehlo a stage's programs, where they were asked for

Reading never executes code and needs no gin: constructors' settings are in the JSON.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from v2meow_jax import errors
from v2meow_jax.bundles import types
from v2meow_jax.codec.codec import Codec
from v2meow_jax.encoders import registry, tokens
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.encoders.semantic import SemanticEncoder
from v2meow_jax.models.runner import StageRunner


class Bundle:
  """A bundle on disk, its files checked against their hashes.

  Raises:
    errors.BundleError: a file is missing or damaged, or a newer version wrote the bundle.
  """

  def __init__(self, directory: epath.PathLike):
    self.directory = epath.Path(directory)
    path = self.directory / 'bundle.json'
    if not path.is_file():
      raise errors.BundleError(
        f'{self.directory}: no bundle.json there; a bundle is what v2meow export writes'
      )
    damaged = f'{path}: damaged; export or copy the bundle again'
    with errors.translated(errors.BundleError, damaged):
      self.about = json.loads(path.read_bytes())
      version = self.about['format']
    if not isinstance(version, int) or version > types.FORMAT:
      raise errors.BundleError(
        f'{path}: format {version}; this version reads up to {types.FORMAT}, update v2meow-jax'
      )
    with errors.translated(errors.BundleError, damaged):
      types.check(self.about)
    self._data = {part['file']: self._read(part) for part in self.parts()}

  def parts(self) -> list[dict]:
    """What `bundle.json` says of each file."""
    fitted = [self.about.get(entry.name) for entry in registry.fitted()]
    programs = self.about.get('stablehlo', [])
    return [self.about['codec'], *self.about['stages'], *filter(None, fitted), *programs]

  def _read(self, part: dict) -> bytes:
    path = self.directory / part['file']
    if '\0' in part['file'] or path.parent != self.directory or not path.is_file():
      raise errors.BundleError(f'{path}: missing; copy the bundle again')
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part['sha256']:
      raise errors.BundleError(
        f'{path}: damaged, its hash is not the one in bundle.json; copy the bundle again'
      )
    return data

  def _weights(self, part: dict) -> dict[str, Any]:
    try:
      flat = load_safetensors(self._data[part['file']])
    except SafetensorError as error:
      raise errors.BundleError(
        f'{self.directory / part["file"]}: not a safetensors file ({error})'
      ) from error
    whole = {name: v.astype(np.float32) if v.dtype == np.float16 else v for name, v in flat.items()}
    return traverse_util.unflatten_dict(whole, sep='/')

  def sizes(self, part: dict) -> dict[str, tuple[int, ...]]:
    """Shape of each array of a network, by its name in the file."""
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(self._weights(part), sep='/'))
    return {name: value.shape for name, value in flat.items()}

  def network(self, name: str) -> dict[str, Any]:
    """Weights of the codec or of a stage, by the name `codec` or the stage's.

    Raises:
      errors.BundleError: there is no such network.
    """
    parts = {'codec': self.about['codec']} | {part['stage']['name']: part for part in self.about['stages']}
    if name not in parts:
      raise errors.BundleError(f'{self.directory}: there is no network {name!r}, only {", ".join(parts)}')
    return self._weights(parts[name])

  def codec(self) -> Codec:
    """The codec."""
    part = self.about['codec']
    return Codec(types.codec(part['config']), self._weights(part), part.get('identity'))

  def stages(self) -> list[StageRunner]:
    """The stages, in the order in which they run."""
    return [types.runner(part, self._weights(part)) for part in self.about['stages']]

  def encoders(self, networks: Mapping[str, str] = registry.NOWHERE) -> list[Encoder]:
    """The encoders of the streams that no stage makes.

    Args:
      networks: folder or id of a pretrained network by the name of its encoder, where it is not the one that
        the bundle names.
    """
    folder = pathlib.Path(self.directory)
    return [registry.build(identity, folder, networks) for identity in self.about['encoders']]

  def token_encoders(self) -> list[Encoder]:
    """Encoders of streams that stages make, besides the codec, so that a given piece can be gone on with."""
    folder = pathlib.Path(self.directory)
    made: list[Encoder] = [self.semantic()] if self.about.get('semantic') else []
    if self.about.get('tokens') and not any(told['encoder'] == 'tokens' for told in self.about['encoders']):
      made.append(tokens.load(folder / self.about['tokens']['file']))
    return made + [registry.build(each, folder) for each in self.about.get('token_encoders', [])]

  def semantic(self) -> SemanticEncoder:
    """The semantic encoder that the training data was made with."""
    if not self.about.get('semantic'):
      raise errors.BundleError(f'{self.directory}: there is no semantic encoder in it')
    return SemanticEncoder.load(self.directory / self.about['semantic']['file'])

  def encoder_of(self, stream: str) -> Encoder | None:
    """What makes a stream as this bundle's training data had it; None where the bundle does not hold it."""
    for identity in self.about['encoders']:
      if registry.stream_of(identity) == stream:
        return registry.build(identity, pathlib.Path(self.directory))
    for encoder in (*self.token_encoders(), self.codec()):
      if encoder.stream.name == stream:
        return encoder
    return None

  @property
  def digest(self) -> str:
    """Tells this bundle from any other: a hash of `bundle.json`, which holds those of the files."""
    return hashlib.sha256((self.directory / 'bundle.json').read_bytes()).hexdigest()
