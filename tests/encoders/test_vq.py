"""Published tokenizers of pictures: the library's own tokens, in reading order, and what is refused."""

import json

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.encoders.driver import NetworkEncoder
from v2meow_jax.encoders.vq import VqNetwork

SMALL = {
  'embed_dim': 8, 'num_embeddings': 64, 'latent_channels': 8, 'base_channels': 32, 'num_res_blocks': 1,
  'channel_multiplier': [1, 1, 1],
}  # fmt: skip


class Noise:
  """A clip of noise, of two and a half seconds."""

  video = 'noise'
  duration = 2.5

  def frames(self, rate, size, cover):
    rng = np.random.default_rng(0)
    return iter(rng.integers(0, 256, (3, *size, 3), np.uint8))


def folder_of(tmp_path, **config):
  (tmp_path / 'config.json').write_text(json.dumps(config))
  return str(tmp_path)


def test_the_stream_has_a_pictures_grid_in_its_time(tmp_path):
  flava = VqNetwork(folder_of(tmp_path, model_type='flava_image_codebook', vocab_size=8192))
  assert flava.reads.size == (112, 112)
  assert (flava.stream.rate, flava.stream.width, flava.stream.codes) == (196, 1, 8192)
  twice = VqNetwork(str(tmp_path), pictures=2, side=64)
  assert twice.stream.rate == 128 and twice.reads.rate == 2


def test_of_a_whole_model_only_the_tokenizer_counts(tmp_path):
  told = {'resolution': 64, 'num_embeddings': 64, 'channel_multiplier': [1, 1, 1]}
  network = VqNetwork(folder_of(tmp_path, model_type='chameleon', vq_config=told))
  assert network.reads.size == (64, 64) and (network.stream.rate, network.stream.codes) == (256, 64)


@pytest.mark.parametrize(
  'config, side, words', [({'model_type': 'bert'}, 0, "'bert'"), ({'model_type': 'janus'}, 100, 'side 100')]
)
def test_what_makes_no_grid_is_refused(tmp_path, config, side, words):
  with pytest.raises(errors.ConfigError, match=words):
    VqNetwork(folder_of(tmp_path, **config), side=side)


@pytest.fixture(scope='module')
def library():
  pytest.importorskip('torch', reason='the extra "encoders" is not installed')
  return pytest.importorskip('transformers', reason='the extra "encoders" is not installed')


def saved(library, folder, kind):
  import torch

  torch.manual_seed(0)
  if kind == 'flava':
    model = library.FlavaImageCodebook(library.FlavaImageCodebookConfig(hidden_size=8, vocab_size=64))
    model.save_pretrained(folder)
    return model.eval(), 64 / 8, lambda pixels: model.get_codebook_indices(pixels * 0.8 + 0.1)
  name = kind.capitalize()
  config = getattr(library, f'{name}VQVAEConfig')(**SMALL)
  model = getattr(library, f'{name}VQVAE')(config).eval()
  if kind == 'janus':  # as a part of a whole model, in bfloat16 as those are published
    from safetensors.torch import save_file

    model = model.to(torch.bfloat16).float()
    arrays = {f'model.vqmodel.{key}': value.to(torch.bfloat16) for key, value in model.state_dict().items()}
    save_file(arrays | {'lm_head.weight': torch.zeros(4)}, folder / 'model.safetensors')
    folder_of(folder, model_type='janus', vq_config=config.to_dict())
  else:
    model.save_pretrained(folder)
  return model, 64 / 4, lambda pixels: model.encode(pixels * 2 - 1).image_tokens


@pytest.mark.parametrize('kind', ['flava', 'chameleon', 'janus'])
def test_tokens_are_the_librarys_in_reading_order(library, kind, tmp_path):
  import torch

  _, across, tokens_of = saved(library, tmp_path, kind)
  encoder = NetworkEncoder(VqNetwork(str(tmp_path), side=64), batch=2)
  found = encoder.encode_clip(Noise())
  assert found.dtype.kind == 'i' and len(found) == int(2.5 * across**2)
  pictures = np.stack(list(Noise().frames(1, (64, 64), True))) / 255
  with torch.no_grad():
    wanted = tokens_of(torch.tensor(pictures.transpose(0, 3, 1, 2), dtype=torch.float32))
  np.testing.assert_array_equal(found[:, 0], wanted.numpy().reshape(-1)[: len(found)])
  assert len(np.unique(found)) > 1
  assert np.array_equal(np.concatenate(list(encoder.encode_gradually(Noise()))), found)
  assert len(encoder.identity['sha256']) == 64


def test_a_model_of_which_arrays_are_missing_is_refused(library, tmp_path):
  from safetensors.torch import load_file, save_file

  saved(library, tmp_path, 'chameleon')
  arrays = load_file(tmp_path / 'model.safetensors')
  arrays.pop('quant_conv.bias')
  save_file(arrays, tmp_path / 'model.safetensors')
  with pytest.raises(errors.ConfigError, match=r'1 arrays are missing, such as quant_conv\.bias'):
    NetworkEncoder(VqNetwork(str(tmp_path))).encode_clip(Noise())
