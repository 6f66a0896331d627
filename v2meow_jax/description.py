"""Constructor settings as JSON and back, so that a bundle or run needs no gin to be read.

A frozen dataclass becomes `{"type": its name, field: value, ...}`. Fractions become strings and
tuples lists; the dataclasses' own `__post_init__` turns them back and validates.
"""

import dataclasses
import types
import typing
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import msgspec

from v2meow_jax import errors


def describe(value: Any) -> Any:
  """Plain JSON values for a (nested) frozen dataclass."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return {'type': type(value).__name__, **fields}
  if isinstance(value, Fraction):
    return str(value)
  if isinstance(value, list | tuple):
    return [describe(item) for item in value]
  if isinstance(value, dict):
    return {key: describe(item) for key, item in value.items()}
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise TypeError(f'cannot describe a {type(value).__name__}')


def rebuild(data: Any, types: Iterable[type], wanted: type | None = None) -> Any:
  """The object that `describe` described.

  Args:
    data: JSON values.
    types: the dataclasses that may occur; nothing else is ever constructed.
    wanted: what it has to be; anything by default.

  Raises:
    errors.ConfigError: an unknown type, or settings that the type does not take.
  """
  known = {cls.__name__: cls for cls in types}

  def build(value: Any) -> Any:
    if isinstance(value, list):
      return tuple(build(item) for item in value)
    if not isinstance(value, dict):
      return value
    settings = {key: build(item) for key, item in value.items() if key != 'type'}
    if 'type' not in value:
      return settings
    if not isinstance(value['type'], str) or value['type'] not in known:
      raise errors.ConfigError(f'unknown type {value["type"]!r}: it was written by another version')
    made_of = known[value['type']]
    hints = typing.get_type_hints(made_of)
    for name, given in settings.items():
      if not _may_be(given, hints.get(name, Any)):
        raise errors.ConfigError(f'{value["type"]}.{name} is {given!r}; the file is damaged')
    told = f'{value["type"]}: what is described was written by another version, or is damaged'
    with errors.translated(errors.ConfigError, told):
      return made_of(**settings)

  made = build(data)
  if wanted is not None and not isinstance(made, wanted):
    raise errors.ConfigError(f'there is no {wanted.__name__} where one should be described; it is damaged')
  return made


_PLAIN = {int, float, bool, str, type(None)}


def _may_be(given: Any, wanted: Any) -> bool:
  """Whether a setting as it was described can be of an annotation, as far as that is known."""
  if is_plain(wanted):
    # Some switches of earlier versions are shares today.
    return holds(given, wanted) or (isinstance(given, bool) and holds(float(given), wanted))
  if isinstance(given, dict):
    return False  # no class here has a dictionary among its settings: something was described there
  kinds = typing.get_args(wanted) or (wanted,)
  described = [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
  # Where only what is described may stand; a fraction, for one, is described by a text.
  return len(described) < len(kinds) or isinstance(given, tuple(described))


def is_plain(wanted: Any) -> bool:
  """Whether an annotation is made of what JSON and gin write literally."""
  origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
  if origin is typing.Literal or (isinstance(wanted, type) and wanted in _PLAIN):
    return True
  allowed = (tuple, list, typing.Union, types.UnionType)
  return origin in allowed and all(part is Ellipsis or is_plain(part) for part in inner)


def holds(given: Any, wanted: Any) -> bool:
  """Whether a value is of a plain annotation; an integer is a float as well, else nothing is converted."""
  try:
    msgspec.convert(given, wanted, strict=True)
  except msgspec.ValidationError:
    return False
  return True
