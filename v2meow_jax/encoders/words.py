"""`style/words`: a clip's caption, or a prompt, as the mean vector of its words, by WordLlama (MIT).

WordLlama's table of token vectors comes with its package, so a small model can be told things in words
without any weights from elsewhere. It knows words and not sentences: "no strings" is about strings as well.
"""

import functools
import hashlib
import importlib.metadata
import logging
import pathlib
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

from v2meow_jax import errors
from v2meow_jax.encoders.entry import Entry, Identity, Sources
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

WIDTH = 256
MODEL = 'l2_supercat'


class WordsEncoder:
  """Captions by WordLlama's token vectors. It hears nothing: a clip without a caption is a vector of zeros.

  Args:
    known: the identity that it is to have. The library is then loaded by the first text alone, so that a
      bundle does without it where no prompt is given.
  """

  needs = 'caption'
  stream = Stream('style/words', 'embedding', Fraction(0), WIDTH)

  def __init__(self, known: Identity | None = None):
    self._known = None if known is None else dict(known)

  def __reduce__(self):
    # The table is read anew in another process.
    return WordsEncoder, (self._known,)

  @functools.cached_property
  def _model(self) -> Any:
    model = _load()
    if self._known is not None and _hash(model) != self._known['sha256']:
      raise errors.BundleError(
        "style/words: this WordLlama's vectors are not those that the training data was made with; "
        f'wordllama {self._known["version"]} had them'
      )
    return model

  @property
  def identity(self) -> dict[str, Any]:
    """The library's version, and a hash of its table."""
    if self._known is None:
      found = _hash(self._model)  # says so where the library is missing
      version = importlib.metadata.version('wordllama')
      self._known = {'encoder': 'words', 'model': MODEL, 'version': version, 'sha256': found}
    return self._known

  def encode_clip(self, clip: MediaClip) -> Float[np.ndarray, '1 width']:
    """The vector of the clip's caption."""
    return self.encode_text(clip.caption)

  def encode_text(self, text: str) -> Float[np.ndarray, '1 width']:
    """The mean of the words' vectors, in lower case, scaled to a mean square of 1; zeros of no words."""
    words = ' '.join(text.lower().split())
    if not words:
      return np.zeros((1, WIDTH), np.float32)
    vector = self._model.embed(words)[0].astype(np.float64)
    return (vector * np.sqrt(WIDTH) / max(np.linalg.norm(vector), 1e-12))[None].astype(np.float32)


def _load() -> Any:
  root = logging.getLogger()
  # The library sets up the program's log when it is imported, unless there is one.
  guard = None if root.handlers else logging.NullHandler()
  if guard:
    root.addHandler(guard)
  try:
    import wordllama  # type: ignore[import-not-found]

    # Its tokenizer lies in the package, where it looks for one in its cache alone.
    place = pathlib.Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(MODEL, cache_dir=place, dim=WIDTH, disable_download=True)
  except ImportError as error:
    raise errors.ConfigError(
      'style/words needs WordLlama; install v2meow-jax with the extra "text"'
    ) from error
  except (OSError, ValueError) as error:
    raise errors.ConfigError(f"style/words: WordLlama's own files cannot be read ({error})") from error
  finally:
    if guard:
      root.removeHandler(guard)


def _hash(model: Any) -> str:
  return hashlib.sha256(model.embedding.tobytes()).hexdigest()


def _rebuild(identity: Identity, sources: Sources) -> WordsEncoder:
  del sources
  if not isinstance(identity['sha256'], str) or not isinstance(identity['version'], str):
    raise ValueError('hash and version are texts')
  return WordsEncoder(identity)


def _essence(identity: dict[str, Any]) -> dict[str, Any]:
  # Another version with the same table is the same.
  return {key: value for key, value in identity.items() if key != 'version'}


ENTRY = Entry(
  'words',
  'style/words',
  make=lambda given: WordsEncoder(),
  rebuild=_rebuild,
  essence=_essence,
)
