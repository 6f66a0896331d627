"""Networks of transformers: which token lies in which element, and the library's own results."""

import json
import pickle

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.encoders import exported, hub
from v2meow_jax.encoders.driver import NetworkEncoder
from v2meow_jax.encoders.hub import TransformersNetwork


def folder_of(tmp_path, **config):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  return str(tmp_path)


@pytest.mark.parametrize('rate', ['25', '10', '50', '100', '1/2'])
def test_an_element_is_the_mean_of_the_tokens_whose_centres_lie_in_it(tmp_path, rate):
  network = TransformersNetwork(folder_of(tmp_path, model_type='hubert'), rate=rate, block=4, context=1)
  tokens = (6 * 16000 - 400) // 320 + 1
  shares = network.shares(tokens)
  assert shares.shape == (4 * network.rate, tokens)
  for element, row in enumerate(shares):
    start = 16000 + element * 16000 / float(network.rate)
    stop = start + 16000 / float(network.rate)
    inside = [t for t in range(tokens) if start <= 200 + 320 * t < stop]
    if not inside:
      inside = [min(range(tokens), key=lambda t: abs(200 + 320 * t - (start + stop) / 2))]
    assert np.flatnonzero(row).tolist() == inside
    np.testing.assert_allclose(row.sum(), 1, rtol=1e-6)


def test_what_a_network_reads_follows_from_its_configuration(tmp_path):
  network = TransformersNetwork(
    folder_of(tmp_path, model_type='videomae', image_size=32, num_frames=16), rate=1
  )
  assert network.reads.size == (32, 32) and (network.window, network.hop) == (16, 8)
  with pytest.raises(errors.ConfigError, match="'tensorflow'"):
    TransformersNetwork(str(tmp_path), backend='tensorflow')


def test_a_model_that_is_not_known_is_refused(tmp_path):
  with pytest.raises(errors.ConfigError, match="'bert'"):
    NetworkEncoder(TransformersNetwork(folder_of(tmp_path, model_type='bert')))


class Noise:
  """A clip of noise."""

  video = 'noise'
  duration = 5.0

  def audio(self, rate, channels):
    return np.random.default_rng(0).normal(0, 0.1, (round(self.duration * rate), channels)).astype(np.float32)

  def frames(self, rate, size, cover):
    rng = np.random.default_rng(0)
    return iter(rng.integers(0, 256, (round(self.duration * rate), *size, 3), np.uint8))


SMALL = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 32}


@pytest.fixture(scope='module')
def library():
  pytest.importorskip('torch', reason='the extra "encoders" is not installed')
  return pytest.importorskip('transformers', reason='the extra "encoders" is not installed')


def saved(library, folder, kind):
  config = {
    'hubert': lambda: library.HubertConfig(
      **SMALL, conv_dim=[8] * 7, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2
    ),
    'w2v-bert': lambda: library.Wav2Vec2BertConfig(**SMALL),
    'dinov2': lambda: library.Dinov2Config(**SMALL, image_size=28, patch_size=14),
    'videomae': lambda: library.VideoMAEConfig(**SMALL, image_size=32, num_frames=4),
  }[kind]()
  library.AutoModel.from_config(config).save_pretrained(folder)
  if kind == 'w2v-bert':
    library.SeamlessM4TFeatureExtractor(feature_size=80, num_mel_bins=80).save_pretrained(folder)
  if kind == 'hubert':
    library.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
  return str(folder)


@pytest.mark.parametrize('kind', ['hubert', 'w2v-bert', 'dinov2', 'videomae'])
def test_elements_are_those_of_the_library_and_torchax_gives_the_same(library, kind, tmp_path):
  import torch

  folder = saved(library, tmp_path, kind)
  hears = kind in ('hubert', 'w2v-bert')
  settings = {'rate': 25, 'block': 5, 'context': 0} if hears else {'rate': 1, 'pictures': 2, 'pool': 'first'}
  network = TransformersNetwork(folder, layer=1, **settings)
  encoder = pickle.loads(pickle.dumps(NetworkEncoder(network, batch=2)))
  found = encoder.encode_clip(Noise())
  model = library.AutoModel.from_pretrained(folder).eval()
  if hears:
    made = hub._extractor(folder)(Noise().audio(16000, 1)[:, 0], sampling_rate=16000, return_tensors='pt')
    argument = {key: value for key, value in made.items() if key.startswith('input_')}
  else:
    images = np.stack(list(Noise().frames(2, network.reads.size, True)))
    scaled = (images / 255 - hub.IMAGENET[0]) / hub.IMAGENET[1]
    pixels = torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32)
    argument = {'pixel_values': pixels if kind == 'dinov2' else pixels[1:5][None]}
  with torch.no_grad():
    hidden = model(**argument, output_hidden_states=True).hidden_states[1].numpy()
  if hears:
    np.testing.assert_allclose(found, network.shares(hidden.shape[1]) @ hidden[0], atol=1e-5)
  elif kind == 'dinov2':
    np.testing.assert_allclose(found, hidden[:, 0].reshape(5, 2, -1).mean(1), atol=1e-5)
  else:  # four pictures around the second second's two: the last one before them to the first one after
    np.testing.assert_allclose(found[1], hidden[0, 0], atol=1e-5)
  pytest.importorskip('torchax', reason='the extra "torchax" is not installed')
  other = NetworkEncoder(TransformersNetwork(folder, layer=1, backend='torchax', **settings), batch=2)
  np.testing.assert_allclose(other.encode_clip(Noise()), found, atol=2e-5)
  assert other.identity['sha256'] == encoder.identity['sha256']

  if kind == 'w2v-bert':
    with pytest.raises(errors.ConfigError, match='on the host'):
      exported.write(other.network, other.identity, tmp_path / 'made')
    return
  exported.write(other.network, other.identity, tmp_path / 'made', 2)
  made = NetworkEncoder(exported.ExportedNetwork(str(tmp_path / 'made')))
  np.testing.assert_allclose(made.encode_clip(Noise()), found, atol=2e-5)
  assert made.batch == 2 and made.identity == other.identity
