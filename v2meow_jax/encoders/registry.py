"""From an encoder's identity, as a bundle holds it, to the encoder."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from v2meow_jax import description, errors
from v2meow_jax.encoders import style
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.encoders.clap import ClapConfig, ClapEncoder
from v2meow_jax.encoders.motion import MotionEncoder

STYLE_FILE = 'style.safetensors'


def build(identity: Mapping[str, Any], folder: pathlib.Path, clap: str | None = None) -> Encoder:
  """The encoder with this identity.

  Args:
    identity: JSON values.
    folder: of the bundle, which holds what was fitted.
    clap: folder or id of the CLAP model; by default what the identity names.

  Raises:
    errors.BundleError: it is unknown here, or it is not what it was when the data was made.
    errors.ConfigError: a pretrained network cannot be loaded.
  """
  name = identity.get('encoder')
  if name not in _BUILDERS:
    raise errors.BundleError(f'encoder {name!r} is unknown; known are {", ".join(_BUILDERS)}')
  encoder = _BUILDERS[name](identity, folder, clap)
  if not same(encoder.identity, identity):
    raise errors.BundleError(
      f'encoder {name!r} is not the one that the training data was made with; use that version and weights'
    )
  return encoder


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
  """Whether two identities are of the same encoder, wherever its network lies."""

  def plain(identity: Mapping[str, Any]) -> dict:
    plain = json.loads(json.dumps(identity))
    for part in (plain, plain.get('embedder') or {}):
      if part.get('encoder') == 'clap':
        part.pop('model', None)  # a place; the hash says which
        # Captions are for training; what a text or a recording becomes is the same.
        part['config'].pop('captions', None)
    return plain

  return plain(one) == plain(other)


def _clap(identity: Mapping[str, Any], folder: pathlib.Path, clap: str | None) -> ClapEncoder:
  del folder
  return ClapEncoder(clap or identity['model'], description.rebuild(identity['config'], [ClapConfig]))


def _style(identity: Mapping[str, Any], folder: pathlib.Path, clap: str | None) -> style.StyleTokens:
  codebooks, _ = style.read(folder / STYLE_FILE)
  return style.StyleTokens(_clap(identity['embedder'], folder, clap), codebooks)


def _motion(identity: Mapping[str, Any], folder: pathlib.Path, clap: str | None) -> MotionEncoder:
  del folder, clap
  return description.rebuild(identity['config'], [MotionEncoder])


_BUILDERS: dict[str, Callable[..., Encoder]] = {'motion': _motion, 'clap': _clap, 'style': _style}
