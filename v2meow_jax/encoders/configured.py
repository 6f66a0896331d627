"""Encoders whose settings gin may bind."""

from typing import TypeVar

import gin

Made = TypeVar('Made')


def configured(kind: type[Made], **given) -> Made:
  """An object of a class that gin knows, as gin binds it; what is given and not None goes before that."""
  told = {name: value for name, value in given.items() if value is not None}
  return gin.get_configurable(kind)(**told)
