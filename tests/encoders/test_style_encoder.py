"""Style tokens, and CLAP of the transformers library where that is installed."""

import json
from fractions import Fraction

import numpy as np
import pytest
import soundfile

from v2meow_jax import errors
from v2meow_jax.encoders import registry, style
from v2meow_jax.encoders.base import StyleEncoder
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream


class Letters:
  """An embedder without weights: how often each vowel occurs; of a recording, of its name."""

  needs = 'audio'
  stream = Stream('style/clap', 'embedding', Fraction(0), 5)
  identity = {'encoder': 'letters'}  # noqa: RUF012

  def encode_text(self, text):
    return np.array([[text.count(vowel) for vowel in 'aeiou']], np.float32)

  def encode_clip(self, clip):
    return self.encode_text(clip.audio_path)


def test_tokens_are_the_greedy_codes_of_what_is_left_over():
  rng = np.random.default_rng(0)
  books = rng.standard_normal((3, 7, 5)).astype(np.float32)
  encoder = style.StyleTokens(Letters(), books)
  assert isinstance(encoder, StyleEncoder)
  text = 'slow and sad piano'
  residual, expected = Letters().encode_text(text)[0].astype(np.float64), []
  for book in books:
    expected.append(int(((residual - book) ** 2).sum(1).argmin()))
    residual = residual - book[expected[-1]]
  assert encoder.encode_text(text).tolist() == [expected]
  assert encoder.encode_clip(MediaClip(None, text, 0, 1)).tolist() == [expected]
  assert encoder.stream == Stream('style/tokens', 'tokens', 0, 3, 7)


def test_fitted_codebooks_leave_less_over_with_every_level():
  vectors = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
  encoder = style.StyleTokens(Letters(), style.fit(vectors, 3, 16))
  tokens = encoder.quantize(vectors)
  left = [
    np.mean((vectors - sum(encoder.codebooks[k][tokens[:, k]] for k in range(n))) ** 2) for n in range(4)
  ]
  assert left[0] > 1.5 * left[1] > 2 * left[2] > 2.5 * left[3]
  with pytest.raises(errors.DatasetError, match='fewer codes'):
    style.fit(vectors[:9], 3, 16)


def test_codebooks_are_read_as_they_were_written(tmp_path):
  books = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
  encoder = style.StyleTokens(Letters(), books)
  encoder.save(tmp_path / 's.safetensors')
  again, embedder = style.read(tmp_path / 's.safetensors')
  np.testing.assert_array_equal(again, books)
  assert embedder == Letters.identity and style.digest(again) == encoder.identity['sha256']
  (tmp_path / 'x').write_bytes(b'no')
  for path in (tmp_path / 'x', tmp_path / 'none'):
    with pytest.raises(errors.BundleError, match='fit-style'):
      style.read(path)
  with pytest.raises(errors.BundleError, match='do not fit'):
    style.StyleTokens(Letters(), books[..., :3])


def test_identities_are_the_same_wherever_the_network_lies():
  one = {
    'encoder': 'clap',
    'model': '/here/clap',
    'config': {'stride': 10.0, 'captions': True},
    'sha256': 'a',
  }
  other = one | {'model': 'laion/clap', 'config': {'stride': 10.0, 'captions': False}}
  assert registry.same(one, other) and not registry.same(one, other | {'sha256': 'b'})
  assert registry.same({'encoder': 'style', 'embedder': one}, {'encoder': 'style', 'embedder': other})


@pytest.fixture(scope='module')
def clap_folder(tmp_path_factory):
  """A small CLAP of random weights in the published layout, with a byte-level tokenizer of 260 tokens."""
  torch = pytest.importorskip('torch', reason='the extra "encoders" is not installed')
  transformers = pytest.importorskip('transformers', reason='the extra "encoders" is not installed')
  folder = tmp_path_factory.mktemp('clap')
  from transformers.models.roberta.tokenization_roberta import RobertaTokenizer

  letters = [chr(c) for c in range(33, 127)] + ['Ġ'] + [chr(c) for c in range(161, 324) if c != 173]
  names = ['<s>', '<pad>', '</s>', '<unk>', '<mask>', *dict.fromkeys(letters)]
  (folder / 'vocab.json').write_text(json.dumps({name: n for n, name in enumerate(names)}))
  (folder / 'merges.txt').write_text('#version: 0.2\n')
  tokenizer = RobertaTokenizer(vocab=str(folder / 'vocab.json'), merges=str(folder / 'merges.txt'))
  text = {
    'vocab_size': len(names) + 5, 'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2,
    'intermediate_size': 64, 'max_position_embeddings': 40,
  }  # fmt: skip
  audio = {
    'patch_embeds_hidden_size': 8, 'hidden_size': 64, 'depths': [1] * 4, 'num_attention_heads': [2] * 4,
    'enable_fusion': True, 'aff_block_r': 2,
  }  # fmt: skip
  torch.manual_seed(0)
  config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
  model = transformers.ClapModel(config).eval()
  model.save_pretrained(folder)
  extractor = transformers.ClapFeatureExtractor(truncation='fusion')
  transformers.ClapProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
  return folder


def test_clap_gives_the_vectors_of_the_library(clap_folder):
  import torch
  import transformers

  from v2meow_jax.encoders.clap import ClapConfig, ClapEncoder

  encoder = ClapEncoder(str(clap_folder))
  model = transformers.ClapModel.from_pretrained(clap_folder).eval()
  processor = transformers.ClapProcessor.from_pretrained(clap_folder)
  assert isinstance(encoder, StyleEncoder) and encoder.stream == Stream('style/clap', 'embedding', 0, 16)

  def unit(x):
    return x / np.linalg.norm(x)

  for text in ('slow jazz', 'スローなジャズ 🎷'):
    tokens = processor.tokenizer(text, return_tensors='pt')
    with torch.no_grad():
      found = model.get_text_features(**tokens)
    expected = unit(np.asarray(getattr(found, 'pooler_output', found))[0])
    np.testing.assert_allclose(encoder.encode_text(text)[0], expected, atol=1e-6)
  assert encoder.encode_text('word ' * 500).shape == (1, 16)  # cut off

  sound = np.random.default_rng(0).normal(0, 0.1, 480000 * 2 + 100000)
  parts = []
  for start in (0, 480000, 960000):
    features = processor.feature_extractor(
      sound[start : start + 480000], sampling_rate=48000, return_tensors='pt'
    )
    with torch.no_grad():
      found = model.get_audio_features(
        features['input_features'].float(), is_longer=torch.zeros(1, 1, dtype=bool)
      )
    parts.append(unit(np.asarray(getattr(found, 'pooler_output', found))[0]))
  found = encoder.encode_audio(sound)
  np.testing.assert_allclose(found[0], unit(np.mean(parts, 0)), atol=1e-6)
  np.testing.assert_array_equal(found, encoder.encode_audio(sound))  # the extractor's draws do not matter
  with pytest.raises(errors.ConfigError, match='stride'):
    ClapConfig(stride=11.0)


def test_clap_hears_files_reads_captions_and_is_known_by_its_weights(clap_folder, tmp_path):
  import pickle
  import shutil

  from v2meow_jax.encoders.clap import ClapConfig, ClapEncoder

  encoder = pickle.loads(pickle.dumps(ClapEncoder(str(clap_folder), ClapConfig(captions=True))))
  soundfile.write(tmp_path / 'x.wav', np.random.default_rng(0).normal(0, 0.1, 48000), 48000)
  heard = encoder.encode_clip(MediaClip(None, str(tmp_path / 'x.wav'), 0, 1.0))
  read = encoder.encode_clip(MediaClip(None, str(tmp_path / 'x.wav'), 0, 1.0, caption='slow jazz'))
  np.testing.assert_array_equal(read, encoder.encode_text('slow jazz'))
  assert (heard != read).any()
  moved = shutil.copytree(clap_folder, tmp_path / 'elsewhere')
  assert registry.same(ClapEncoder(str(moved)).identity, encoder.identity)
  built = registry.build(json.loads(json.dumps(encoder.identity)), tmp_path, {'clap': str(moved)})
  np.testing.assert_array_equal(built.encode_text('slow jazz'), read)
  with pytest.raises(errors.ConfigError, match='give the folder'):
    ClapEncoder(str(tmp_path / 'nowhere')).stream  # noqa: B018
