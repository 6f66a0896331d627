"""A frozen network as a folder that needs neither its library nor its code: a program, weights, and a JSON.

    encoder.json          what is read, windows, stream, the encoder's identity, hashes of the other two
    encoder.stablehlo     apply(weights, windows), for cpu, cuda and tpu
    weights.safetensors   arrays in the order in which the program takes them

Such a folder stands in wherever the network's own would: its identity is the network's.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from safetensors.numpy import save

import gin
from v2meow_jax import errors, files
from v2meow_jax.encoders import weights
from v2meow_jax.encoders.network import Apply, Network, Pictures, Sound
from v2meow_jax.streams import Stream

PLATFORMS = ('cpu', 'cuda', 'tpu')
ABOUT, PROGRAM, WEIGHTS = 'encoder.json', 'encoder.stablehlo', 'weights.safetensors'


def write(network: Network, identity: Mapping[str, Any], folder: str | os.PathLike, batch: int = 8) -> int:
  """Exports a network; returns the bytes written.

  Args:
    network: of JAX.
    identity: of its encoder.
    folder: to be made; the JSON comes last.
    batch: windows that the program takes at once, where it cannot be made for any number.

  Raises:
    errors.ConfigError: the folder exists, the network is not JAX's, or a part of its work is the host's.
  """
  folder = pathlib.Path(folder)
  if folder.exists():
    raise errors.ConfigError(f'{folder}: exists already; name another folder or remove it')
  if not network.compiled:
    raise errors.ConfigError(
      f'{network.name}: it runs in another library; bind backend = "torchax" to export it'
    )
  if network.on_host or type(network).units is not Network.units:
    raise errors.ConfigError(
      f'{network.name}: a part of its work is done on the host, and cannot be exported'
    )
  params, apply = network.load()
  leaves, structure = jax.tree.flatten(params)
  reads, window = network.reads, network.window
  rows = export.symbolic_shape('b')[0] if network.any_batch else batch
  if isinstance(reads, Pictures):
    windows = jax.ShapeDtypeStruct((rows, window, *reads.size[::-1], 3), jnp.uint8)
    about = {'needs': 'video', 'rate': str(reads.rate), 'size': list(reads.size)}
  else:
    windows = jax.ShapeDtypeStruct((rows, window, reads.channels), jnp.float32)
    about = {'needs': 'audio', 'rate': str(reads.rate), 'channels': reads.channels}
  shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
  program = jax.jit(lambda leaves, windows: apply(jax.tree.unflatten(structure, leaves), windows))
  parts = {
    PROGRAM: bytes(export.export(program, platforms=PLATFORMS)(shapes, windows).serialize()),
    WEIGHTS: save({f'{n:05d}': np.ascontiguousarray(leaf) for n, leaf in enumerate(leaves)}),
  }
  stream = network.stream
  about |= {
    'window': window,
    'hop': network.hop,
    'rows': 0 if network.any_batch else batch,
    'stream': [stream.name, str(stream.rate), stream.width],
    'identity': dict(identity),
    'sha256': {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
  }
  folder.mkdir(parents=True)
  for name, data in parts.items():
    files.write_bytes(folder / name, data)
  files.write_text(folder / ABOUT, json.dumps(about, indent=2) + '\n')
  return sum(map(len, parts.values()))


def is_exported(place: str | os.PathLike) -> bool:
  """Whether a folder is one of `write`."""
  return (pathlib.Path(place) / ABOUT).is_file()


@gin.register
@dataclasses.dataclass(frozen=True)
class ExportedNetwork(Network):
  """What `write` wrote.

  Attributes:
    weights: the folder.
  """

  weights: str

  name: ClassVar[str] = 'exported'

  def _about(self, key: str) -> Any:
    told = weights.settings(self.weights, ABOUT)
    if key not in told:
      raise errors.ConfigError(f'{self.weights}/{ABOUT}: damaged; export the network again')
    return told[key]

  @property
  def stated(self) -> dict[str, Any]:
    """The identity of the network's encoder."""
    return self._about('identity')

  @property
  def reads(self) -> Pictures | Sound:
    """As of the network."""
    if self._about('needs') == 'video':
      width, height = self._about('size')
      return Pictures(Fraction(self._about('rate')), (width, height))
    return Sound(int(self._about('rate')), self._about('channels'))

  @property
  def stream(self) -> Stream:
    """As of the network."""
    name, rate, width = self._about('stream')
    return Stream(name, 'embedding', rate, width)

  @property
  def window(self) -> int:
    """As of the network."""
    return self._about('window')

  @property
  def hop(self) -> int:
    """As of the network."""
    return self._about('hop')

  @property
  def rows(self) -> int:  # type: ignore[override] (it depends on the program)
    """Windows that the program takes; 0: any number."""
    return self._about('rows')

  def load(self) -> tuple[Any, Apply]:
    """See `Network.load`."""
    folder = pathlib.Path(self.weights)
    for name, wanted in self._about('sha256').items():
      if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != wanted:
        raise errors.ConfigError(
          f'{folder / name}: missing, or not the one of {ABOUT}; copy the folder again'
        )
    arrays = weights.read(folder / WEIGHTS)
    with errors.translated(errors.ConfigError, f'{folder / PROGRAM}: a program that cannot be read here'):
      program = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    return {name: arrays[name] for name in sorted(arrays)}, functools.partial(_apply, program)


def _apply(program: Any, params: dict[str, Any], windows: Any) -> Any:
  return program.call([params[name] for name in sorted(params)], windows)
