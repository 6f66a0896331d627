"""What the registry asks of an encoder, so that nothing else needs to know it by name."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from v2meow_jax.encoders.base import Encoder

Identity = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Option:
  """Something that preparation has to be told: where a file or a network lies.

  Attributes:
    name: of the flag, without dashes.
    help: what it means.
    kind: of its value; `bool`: a flag without one.
    default: where it is not given.
  """

  name: str
  help: str
  kind: Callable = str
  default: Any = None


@dataclasses.dataclass(frozen=True)
class Given:
  """What an encoder is made from for preparation.

  Attributes:
    options: values by option.
    make: another encoder from the same options, by its name.
  """

  options: Mapping[str, Any]
  make: Callable[[str], Encoder]


@dataclasses.dataclass(frozen=True)
class Sources:
  """What an encoder is rebuilt from besides its identity.

  Attributes:
    folder: that holds what was fitted: a bundle's.
    networks: folder or id of pretrained networks by the name of their encoder or stream, instead of those
      that identities name.
    build: another encoder from its identity.
  """

  folder: pathlib.Path
  networks: Mapping[str, str]
  build: Callable[[Identity], Encoder]

  def place(self, identity: Identity) -> str | None:
    """Where the network of an identity lies, as far as `networks` says; its stream goes before its name."""
    stream = identity.get('network', {}).get('stream_name')
    return self.networks.get(str(stream)) or self.networks.get(identity['encoder'])


@dataclasses.dataclass(frozen=True)
class Entry:
  """An encoder, for the registry.

  Attributes:
    name: that its identities have as `encoder`.
    stream: name of the stream that it makes.
    make: an encoder for preparation.
    rebuild: the encoder of an identity; None: that takes more than an encoder's sources.
    settings: the class whose parameters gin may bind for it; None: there is none.
    options: what preparation may be told.
    needs: options without which `make` has nothing to work with.
    wanted: what to give where those are missing.
    fitted: from a file of what was fitted, the part of an identity that such a file decides. A bundle holds
      the file as NAME.safetensors. None: nothing is fitted.
    pretrained: whether it is a network of others, of which users say where it lies.
    essence: the part of an identity that makes two encoders the same; all of it by default.
  """

  name: str
  stream: str
  make: Callable[[Given], Encoder]
  rebuild: Callable[[Identity, Sources], Encoder] | None = None
  settings: type | None = None
  options: tuple[Option, ...] = ()
  needs: tuple[str, ...] = ()
  wanted: str = ''
  fitted: Callable[[pathlib.Path], dict[str, Any]] | None = None
  pretrained: bool = False
  essence: Callable[[dict[str, Any]], dict[str, Any]] = dict

  @property
  def file(self) -> str:
    """Of what was fitted, in a bundle."""
    return f'{self.name}.safetensors'
