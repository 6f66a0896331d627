"""`style/tokens`: a style vector as tokens of a residual quantiser, as MusicLM has MuLan's (12 x 1,024)."""

import hashlib
import json
import pathlib
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from v2meow_jax import errors, files
from v2meow_jax.encoders import codebooks
from v2meow_jax.encoders.base import StyleEncoder
from v2meow_jax.encoders.entry import Entry, Given, Identity, Option, Sources
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream


def fit(
  vectors: Float[np.ndarray, 'n d'], levels: int, codes: int, seed: int = 0
) -> Float[np.ndarray, 'levels codes d']:
  """Codebooks of a residual quantiser.

  Raises:
    errors.ConfigError: no level, or fewer than two codes.
    errors.DatasetError: fewer vectors than codes.
  """
  return codebooks.fit(codebooks.of_array(vectors), levels, codes, seed=seed).codebooks


def digest(books: Float[np.ndarray, 'levels codes d']) -> str:
  """A hash that tells codebooks apart."""
  return hashlib.sha256(np.ascontiguousarray(books, np.float32).tobytes()).hexdigest()


class StyleTokens:
  """An encoder of style vectors with a residual quantiser behind it.

  Args:
    embedder: of the vectors.
    books: of `fit`, on the embedder's vectors.
  """

  needs = 'audio'

  def __init__(self, embedder: StyleEncoder, books: Float[np.ndarray, 'levels codes d']):
    if books.shape[-1] != embedder.stream.width:
      raise errors.BundleError(
        f'style codebooks of width {books.shape[-1]} do not fit vectors of {embedder.stream.width}'
      )
    self.embedder, self.codebooks = embedder, np.asarray(books, np.float32)

  @property
  def stream(self) -> Stream:
    """`style/tokens`, one tuple a clip."""
    levels, codes, _ = self.codebooks.shape
    return Stream('style/tokens', 'tokens', Fraction(0), levels, codes)

  @property
  def identity(self) -> dict[str, Any]:
    """The embedder's, and a hash of the codebooks."""
    return {
      'encoder': 'style',
      'embedder': self.embedder.identity,
      'sha256': digest(self.codebooks),
    }

  def encode_clip(self, clip: MediaClip) -> Int[np.ndarray, '1 levels']:
    """Tokens of a clip's music."""
    return self.quantize(self.embedder.encode_clip(clip))

  def encode_text(self, text: str) -> Int[np.ndarray, '1 levels']:
    """Tokens of a text."""
    return self.quantize(self.embedder.encode_text(text))

  def quantize(self, vectors: Float[np.ndarray, 'n d']) -> Int[np.ndarray, 'n levels']:
    """The nearest code of each level to what the levels before leave over."""
    return codebooks.Quantizer.plain(self.codebooks).quantize(vectors)

  def save(self, path: str | pathlib.Path) -> None:
    """Writes a safetensors file with the embedder's identity in its metadata."""
    from safetensors.numpy import save

    about = {'embedder': json.dumps(self.embedder.identity)}
    files.write_bytes(path, save({'codebooks': np.ascontiguousarray(self.codebooks)}, metadata=about))


def read(path: str | pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
  """(codebooks, identity of the embedder) that `StyleTokens.save` wrote.

  Raises:
    errors.BundleError: missing or damaged.
  """
  from safetensors import SafetensorError, safe_open

  try:
    with safe_open(str(path), 'numpy') as file:
      return file.get_tensor('codebooks'), json.loads(file.metadata()['embedder'])
  except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
    raise errors.BundleError(
      f'{path}: missing, or not style codebooks ({error}); see v2meow fit-style'
    ) from error


def _make(given: Given) -> StyleTokens:
  books, _ = read(given.options['style'])
  return StyleTokens(given.make('clap'), books)  # type: ignore[arg-type] (a style encoder)


def _rebuild(identity: Identity, sources: Sources) -> StyleTokens:
  books, _ = read(sources.folder / ENTRY.file)
  return StyleTokens(sources.build(identity['embedder']), books)  # type: ignore[arg-type] (a style encoder)


ENTRY = Entry(
  'style',
  'style/tokens',
  make=_make,
  rebuild=_rebuild,
  options=(Option('style', "fit-style's file, for style/tokens", pathlib.Path),),
  needs=('clap', 'style'),
  wanted="--clap, the folder or id of a CLAP model, and --style, fit-style's file",
  fitted=lambda path: {'sha256': digest(read(path)[0])},
)
