"""The portable artefact that generation reads: a folder of safetensors files and one JSON.

    bundle.json            what the parts are: settings, streams, sampling, provenance, licence, hashes
    codec.safetensors      codec parameters and codebooks
    stage_NAME.safetensors a file a stage
    semantic.safetensors   the semantic encoder that the training data was made with
    style.safetensors      the codebooks of style tokens, where there are any
    stage_NAME.*.stablehlo a stage's programs, where they were asked for

Reading never executes code and needs no gin: constructors' settings are in the JSON.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from fractions import Fraction
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from v2meow_jax import description, errors
from v2meow_jax.codec import codec as codec_lib
from v2meow_jax.codec.codec import Codec
from v2meow_jax.encoders import registry
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.encoders.semantic import SemanticEncoder
from v2meow_jax.generation import exported
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.sampling import Sampling
from v2meow_jax.generation.score import StageRunner, window_batch
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

FORMAT = 2  # 2: guidance in the sampling, style encoders
TYPES = (*codec_lib.TYPES, TransformerConfig, Stage, Condition, Target, Stream, Sampling)


def flatten(tree: Any, prefix: str = '') -> dict[str, np.ndarray]:
  """Nested dictionaries of arrays as one, with `/` between the names."""
  if not isinstance(tree, dict):
    return {prefix: np.asarray(tree)}
  flat = {}
  for name, value in tree.items():
    flat |= flatten(value, f'{prefix}/{name}' if prefix else name)
  return flat


def unflatten(flat: dict[str, np.ndarray]) -> dict[str, Any]:
  """Inverse of `flatten`; float16 becomes float32."""
  tree: dict[str, Any] = {}
  for path, value in flat.items():
    *folders, name = path.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = value.astype(np.float32) if value.dtype == np.float16 else value
  return tree


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
  directory: str | os.PathLike,
  *,
  codec: Network,
  stages: list[Network],
  encoders: list[dict],
  semantic: SemanticEncoder | None = None,
  style: pathlib.Path | None = None,
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
    semantic: the encoder that the training data was made with.
    style: the file of style codebooks.
    dtype: that weights are stored in, `float32` or `float16` (half the size; they are float32 in use).
    stablehlo: also write every stage's prefill and step as programs; see `generation.exported`.
    about: name, licence, provenance.

  Raises:
    errors.BundleError: the folder exists, or weights do not fit the dtype.
  """
  directory = pathlib.Path(directory)
  if directory.exists():
    raise errors.BundleError(f'{directory}: exists already; name another folder or remove it')
  directory.parent.mkdir(parents=True, exist_ok=True)
  temporary = directory.with_name(f'.{directory.name}.{os.getpid()}')
  temporary.mkdir()
  try:
    told = {'format': FORMAT, **(about or {})}
    told['codec'] = codec.about | _save(temporary, codec, dtype)
    told['stages'] = [network.about | _save(temporary, network, dtype) for network in stages]
    told['encoders'] = encoders
    if stablehlo:
      runners = [_runner(network.about, network.weights) for network in stages]
      told['stablehlo'] = [_file(path) for runner in runners for path in exported.write(runner, temporary)]
    if semantic is not None:
      semantic.save(temporary / 'semantic.safetensors')
      told['semantic'] = _file(temporary / 'semantic.safetensors')
    if style is not None:
      shutil.copyfile(style, temporary / registry.STYLE_FILE)
      told['style'] = _file(temporary / registry.STYLE_FILE)
    (temporary / 'bundle.json').write_text(json.dumps(told, indent=2) + '\n')
    os.replace(temporary, directory)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _file(path: pathlib.Path) -> dict[str, str]:
  """A file's name and hash."""
  return {'file': path.name, 'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}


def _save(directory: pathlib.Path, network: Network, dtype: str) -> dict[str, str]:
  """Writes a network's file; its name and hash."""
  flat = {}
  for name, value in flatten(network.weights).items():
    stored = np.ascontiguousarray(value, dtype)
    if not np.isfinite(stored).all():
      raise errors.BundleError(f'{network.name}: {name} has values that are not finite in {dtype}')
    flat[name] = stored
  path = directory / f'{network.name}.safetensors'
  path.write_bytes(save_safetensors(flat))
  return _file(path)


def _runner(about: dict[str, Any], weights: dict[str, Any]) -> StageRunner:
  """A stage from what `bundle.json` says of it."""
  stage, config = (description.rebuild(about[key], TYPES) for key in ('stage', 'transformer'))
  return StageRunner(StageModel(stage, config), weights, description.rebuild(about['sampling'], TYPES))


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
    try:
      self.about = json.loads(path.read_text())
      version = self.about['format']
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
      raise errors.BundleError(f'{path}: damaged ({error}); export or copy the bundle again') from error
    if not isinstance(version, int) or version > FORMAT:
      raise errors.BundleError(
        f'{path}: format {version}; this version reads up to {FORMAT}, update v2meow-jax'
      )
    try:
      self._data = {part['file']: self._read(part) for part in self.parts()}
    except (KeyError, TypeError) as error:
      raise errors.BundleError(
        f'{path}: entry {error} is missing; export or copy the bundle again'
      ) from error

  def parts(self) -> list[dict]:
    """What `bundle.json` says of each file."""
    fitted = [self.about.get(name) for name in ('semantic', 'style')]
    programs = self.about.get('stablehlo', [])
    return [self.about['codec'], *self.about['stages'], *filter(None, fitted), *programs]

  def _read(self, part: dict) -> bytes:
    path = self.directory / part['file']
    if path.parent != self.directory or not path.is_file():
      raise errors.BundleError(f'{path}: missing; copy the bundle again')
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != part['sha256']:
      raise errors.BundleError(
        f'{path}: damaged, its hash is not the one in bundle.json; copy the bundle again'
      )
    return data

  def _weights(self, part: dict) -> dict[str, Any]:
    try:
      return unflatten(load_safetensors(self._data[part['file']]))
    except SafetensorError as error:
      raise errors.BundleError(
        f'{self.directory / part["file"]}: not a safetensors file ({error})'
      ) from error

  def sizes(self, part: dict) -> dict[str, tuple[int, ...]]:
    """Shape of each array of a network, by its name in the file."""
    return {name: value.shape for name, value in flatten(self._weights(part)).items()}

  def faults(self) -> list[str]:
    """What is wrong in a bundle whose files have the right hashes: shapes, or values that are not finite."""
    found = []
    for runner, part in zip(self.stages(), self.about['stages'], strict=True):
      example = window_batch(runner.stage, lambda stream, *_: np.zeros((0, stream.width)), Fraction(0))
      batch = {name: value[None] for name, value in example.items()}
      found += _differences(part['file'], runner.model, batch, runner.params)
    codec, part = self.codec(), self.about['codec']
    audio = np.zeros((1, 4 * codec.hop, codec.channels), np.float32)
    return found + _differences(part['file'], codec.config.build(), audio, codec.weights['params'])

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
    return Codec(description.rebuild(part['config'], TYPES), self._weights(part), part.get('identity'))

  def semantic(self) -> SemanticEncoder:
    """The semantic encoder that the training data was made with."""
    if not self.about.get('semantic'):
      raise errors.BundleError(f'{self.directory}: there is no semantic encoder in it')
    return SemanticEncoder.load(self.directory / self.about['semantic']['file'])

  def encoders(self, clap: str | None = None) -> list[Encoder]:
    """The encoders of the streams that no stage makes; see `pipeline`."""
    folder = pathlib.Path(self.directory)
    return [registry.build(identity, folder, clap) for identity in self.about['encoders']]

  def stages(self) -> list[StageRunner]:
    """The stages, in the order in which they run."""
    return [_runner(part, self._weights(part)) for part in self.about['stages']]

  @property
  def digest(self) -> str:
    """Tells this bundle from any other: a hash of `bundle.json`, which holds those of the files."""
    return hashlib.sha256((self.directory / 'bundle.json').read_bytes()).hexdigest()

  def pipeline(self, *, clap: str | None = None, **settings) -> Pipeline:
    """Everything, ready to generate.

    Args:
      clap: folder or id of the CLAP model, where it is not the one that the bundle names.
      settings: the pipeline's own.
    """
    semantic = [self.semantic()] if self.about.get('semantic') else []
    return Pipeline(self.encoders(clap), self.stages(), self.codec(), token_encoders=semantic, **settings)


def _differences(file: str, network: nn.Module, example: Any, params: Any) -> list[str]:
  """Where a network's arrays are not what it takes."""
  wanted = nn.unbox(jax.eval_shape(network.init, jax.random.key(0), example))['params']
  flat: dict[str, Any] = dict(traverse_util.flatten_dict(wanted, sep='/'))  # type: ignore[arg-type]
  shapes = {name: leaf.shape for name, leaf in flat.items()}
  there = flatten(params)
  found = [f'{file}: {name} is missing' for name in shapes.keys() - there.keys()]
  found += [f'{file}: {name} is not known' for name in there.keys() - shapes.keys()]
  for name in sorted(shapes.keys() & there.keys()):
    if there[name].shape != shapes[name]:
      found.append(f'{file}: {name} has shape {there[name].shape} instead of {shapes[name]}')
    elif not np.isfinite(there[name]).all():
      found.append(f'{file}: {name} has values that are not finite')
  return found


def load(directory: epath.PathLike) -> Bundle:
  """Opens a bundle; see `Bundle`."""
  return Bundle(directory)


def load_codec(directory: epath.PathLike) -> Codec:
  """The codec of a bundle or of a codec's run."""
  directory = epath.Path(directory)
  if not (directory / 'model.json').is_file():
    return load(directory).codec()
  from v2meow_jax import export

  run = export.read_run(directory)
  if run.kind != 'codec':
    raise errors.BundleError(f'{directory}: this run trained a {run.kind}, not a codec')
  return Codec(description.rebuild(run.about['codec'], TYPES), run.weights)
