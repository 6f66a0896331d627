"""Prompts and captions by WordLlama's vectors, against its own tables read by hand."""

import importlib.metadata
import importlib.util
import json
import pathlib
import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.encoders import registry
from v2meow_jax.encoders.base import StyleEncoder
from v2meow_jax.encoders.words import WordsEncoder
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

# Not imported here: it would set up the log of this process.
FOUND = importlib.util.find_spec('wordllama')
pytestmark = pytest.mark.skipif(FOUND is None, reason='WordLlama is the extra "text"')


def by_hand(text):
  """The mean of the tokens' rows of the table, of length sqrt(256)."""
  import safetensors.numpy
  import tokenizers

  place = pathlib.Path(FOUND.origin).parent
  table = safetensors.numpy.load_file(place / 'weights' / 'l2_supercat_256.safetensors')['embedding.weight']
  reader = tokenizers.Tokenizer.from_file(str(place / 'tokenizers' / 'l2_supercat_tokenizer_config.json'))
  rows = table[reader.encode(text, add_special_tokens=False).ids].astype(np.float64)
  mean = rows.mean(0)
  return mean * 16 / np.linalg.norm(mean)


def test_a_text_is_the_mean_of_its_words():
  encoder = WordsEncoder()
  assert isinstance(encoder, StyleEncoder) and encoder.stream == Stream('style/words', 'embedding', 0, 256)
  assert encoder.stream.rate == Fraction(0)
  for text in ('calm piano', 'slow dark strings in a flat minor'):
    np.testing.assert_allclose(encoder.encode_text(text)[0], by_hand(text), atol=1e-4)
  # Letters' case and spaces say nothing; several texts are as each alone.
  np.testing.assert_array_equal(encoder.encode_text(' Calm\n  PIANO '), encoder.encode_text('calm piano'))


def test_captions_are_read_and_missing_ones_are_zeros():
  encoder = WordsEncoder()
  clip = MediaClip(None, 'a.wav', 0, 10, 'lively winds')
  np.testing.assert_array_equal(encoder.encode_clip(clip), encoder.encode_text('lively winds'))
  assert not encoder.encode_clip(MediaClip(None, 'a.wav', 0, 10)).any()


def test_identity_leads_back_to_it(tmp_path):
  encoder = WordsEncoder()
  identity = json.loads(json.dumps(encoder.identity))
  again = pickle.loads(pickle.dumps(registry.build(identity, tmp_path)))
  np.testing.assert_array_equal(again.encode_text('guitar'), encoder.encode_text('guitar'))
  assert registry.same(identity, identity | {'version': '9'})
  other = registry.build(identity | {'sha256': '0'}, tmp_path)
  with pytest.raises(errors.BundleError, match='not those that the training data was made with'):
    other.encode_text('guitar')
  with pytest.raises(errors.BundleError, match='described in no way'):
    registry.build({'encoder': 'words'}, tmp_path)


def test_nothing_is_loaded_before_there_is_a_text_and_the_log_stays_as_it_is(tmp_path):
  program = f"""
import logging, pathlib, sys
from v2meow_jax.encoders import registry
encoder = registry.build({WordsEncoder().identity!r}, pathlib.Path({str(tmp_path)!r}))
assert 'wordllama' not in sys.modules
encoder.encode_text('piano')
assert 'wordllama' in sys.modules and not logging.getLogger().handlers
assert logging.getLogger().level == logging.WARNING
"""
  subprocess.run([sys.executable, '-c', program], check=True)


def test_without_the_library_one_sentence_says_which_extra(monkeypatch):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setitem(sys.modules, 'wordllama', None)
  monkeypatch.setattr(importlib.metadata, 'version', missing)
  for use in (lambda: WordsEncoder().encode_text('piano'), lambda: WordsEncoder().identity):
    with pytest.raises(errors.ConfigError, match='extra "text"'):
      use()
