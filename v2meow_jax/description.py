"""Constructor settings as JSON and back, so that a bundle or run needs no gin to be read.

A frozen dataclass becomes `{"type": its name, field: value, ...}`. Fractions become strings and
tuples lists; the dataclasses' own `__post_init__` turns them back and validates.
"""

import dataclasses
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

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


def rebuild(data: Any, types: Iterable[type]) -> Any:
  """The object that `describe` described.

  Args:
    data: JSON values.
    types: the dataclasses that may occur; nothing else is ever constructed.

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
    if value['type'] not in known:
      raise errors.ConfigError(f'unknown type {value["type"]!r}: it was written by another version')
    try:
      return known[value['type']](**settings)
    except TypeError as error:
      raise errors.ConfigError(f'{value["type"]}: {error}; it was written by another version') from error

  return build(data)
