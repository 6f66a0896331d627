"""The encoders that there are: one line each. From options or from an identity to the encoder."""

import json
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from v2meow_jax import errors
from v2meow_jax.encoders import (
  clap,
  clip,
  events,
  hub,
  i3d,
  motion,
  musicnn,
  pulse,
  semantic,
  siglip,
  style,
  tokens,
  vq,
  waveform,
  words,
)
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.encoders.entry import Entry, Given, Identity, Option, Sources

ENTRIES = (
  motion.ENTRY,
  events.ENTRY,
  semantic.ENTRY,
  pulse.ENTRY,
  waveform.ENTRY,
  clap.ENTRY,
  clip.ENTRY,
  siglip.ENTRY,
  i3d.RGB,
  i3d.FLOW,
  hub.ENTRY,
  vq.ENTRY,
  musicnn.ENTRY,
  musicnn.LABELS,
  style.ENTRY,
  words.ENTRY,
  tokens.ENTRY,
)  # fmt: skip

_BY_NAME = {entry.name: entry for entry in ENTRIES}
# Pretrained networks are where identities say.
NOWHERE: Mapping[str, str] = types.MappingProxyType({})


def named(name: str) -> Entry | None:
  """The entry of an encoder; None where there is none of that name."""
  return _BY_NAME.get(name)


def fitted() -> list[Entry]:
  """Those of which a bundle may hold a file."""
  return [entry for entry in ENTRIES if entry.fitted]


def pretrained() -> list[Entry]:
  """Those that are networks of others."""
  return [entry for entry in ENTRIES if entry.pretrained]


def options(entries: Iterable[Entry]) -> list[Option]:
  """What preparation may be told, each once."""
  return list({option.name: option for entry in entries for option in entry.options}.values())


def make(
  stream: str,
  entries: Iterable[Entry],
  given: Mapping[str, Any],
  bundled: Callable[[str], Encoder | None] = lambda stream: None,
) -> Encoder:
  """The encoder that makes a stream, for preparation.

  Args:
    stream: its name.
    entries: those that there are.
    given: options by name; None where they are not given.
    bundled: the encoder of a stream in the bundle that was named, which is taken where no option says more.

  Raises:
    errors.ConfigError: no encoder makes that stream, or it cannot be made of what is given.
  """
  by_stream = {entry.stream: entry for entry in entries}
  by_name = {entry.name: entry for entry in by_stream.values()}
  if stream not in by_stream:
    raise errors.ConfigError(f'--streams: {stream!r} is not one of {", ".join(by_stream)}')
  entry = by_stream[stream]
  told = all(given.get(name) is not None for name in entry.needs)
  if not (entry.needs and told):
    found = bundled(stream)
    if found is not None:
      return found
  if not told:
    raise errors.ConfigError(f'--streams: {stream} needs {entry.wanted}')

  def made(name: str) -> Encoder:
    return by_name[name].make(Given(given, made))

  return made(entry.name)


def build(identity: Identity, folder: pathlib.Path, networks: Mapping[str, str] = NOWHERE) -> Encoder:
  """The encoder with this identity.

  Args:
    identity: JSON values.
    folder: of the bundle, which holds what was fitted.
    networks: folder or id of a pretrained network by its encoder's name; by default what the identity names.

  Raises:
    errors.BundleError: it is unknown here, or it is not what it was when the data was made.
    errors.ConfigError: a pretrained network cannot be loaded.
  """
  encoder = _rebuild(identity, folder, networks)
  if not same(encoder.identity, identity):
    raise errors.BundleError(
      f'encoder {identity["encoder"]!r} is not the one that the training data was made with; use that '
      'version and weights'
    )
  return encoder


def _rebuild(identity: Identity, folder: pathlib.Path, networks: Mapping[str, str]) -> Encoder:
  name = identity.get('encoder')
  entry = _BY_NAME.get(str(name))
  if entry is None or entry.rebuild is None:
    raise errors.BundleError(f'encoder {name!r} is unknown; known are {", ".join(_BY_NAME)}')
  sources = Sources(folder, networks, lambda part: _rebuild(part, folder, networks))
  with errors.translated(errors.BundleError, f'encoder {name!r} is described in no way that is known'):
    return entry.rebuild(identity, sources)


def stream_of(identity: Identity) -> str | None:
  """Name of the stream that the encoder of an identity makes; None where that is unknown."""
  entry = _BY_NAME.get(str(identity.get('encoder')))
  told = identity.get('stream') or identity.get('network', {}).get('stream_name')
  return str(told) if told else (entry.stream if entry else None)


def same(one: Identity, other: Identity) -> bool:
  """Whether two identities are of encoders that make the same, wherever their networks lie.

  Codecs may differ in their decoders; those of earlier versions told no hash of what makes codes alone.
  """
  one, other = (json.loads(json.dumps(identity)) for identity in (one, other))
  if one.get('encoder') == other.get('encoder') == 'codec':
    alike = any(key in one and one[key] == other.get(key) for key in ('sha256', 'codes'))
    return alike and one.get('config') == other.get('config')
  return _essence(one) == _essence(other)


def _essence(value: Any) -> Any:
  if not isinstance(value, dict):
    return value
  entry = _BY_NAME.get(str(value.get('encoder')))
  return {key: _essence(part) for key, part in (entry.essence(value) if entry else value).items()}
