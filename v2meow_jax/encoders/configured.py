"""Encoders whose settings gin may bind."""

from collections.abc import Callable
from typing import TypeVar

import gin
from v2meow_jax.encoders.base import Encoder

Made = TypeVar('Made')


def configured(kind: Callable[..., Made], **given) -> Made:
  """An object of a class that gin knows, as gin binds it; what is given and not None goes before that."""
  told = {name: value for name, value in given.items() if value is not None}
  return gin.get_configurable(kind)(**told)


@gin.register
def prepared(encoder: Encoder) -> Encoder:
  """An encoder that preparation is asked for: a file of gin/encoders binds `NAME/prepared.encoder`."""
  return encoder
