"""CLIP and SigLIP against transformers' own, on random weights in the published layout."""

import json
import shutil

import numpy as np
import published
import pytest
from safetensors.numpy import load_file, save_file

from v2meow_jax import errors
from v2meow_jax.encoders import clip, driver, exported, registry, siglip
from v2meow_jax.encoders.driver import NetworkEncoder

NETWORKS = {
  'clip': (clip.ClipNetwork, clip.ClipText),
  'siglip': (siglip.SiglipNetwork, siglip.SiglipText),
}


@pytest.fixture(scope='module', params=list(NETWORKS))
def laid_out(request, tmp_path_factory):
  folder = published.lay_out(request.param, tmp_path_factory.mktemp('published') / request.param)
  return request.param, str(folder), published.read(request.param)[0]


class Film:
  """A clip of given pictures, one a second."""

  def __init__(self, pictures):
    self.pictures, self.duration, self.video = pictures, float(len(pictures)), 'film'

  def frames(self, rate, size, cover):
    assert cover and size == self.pictures.shape[1:3]
    return iter(np.repeat(self.pictures, int(rate), 0))


def test_both_towers_are_those_of_transformers(laid_out):
  name, folder, arrays = laid_out
  network, text = NETWORKS[name]
  encoder = NetworkEncoder(network(folder), batch=3)  # does not divide the four pictures
  found = encoder.encode_clip(Film(arrays['in/pictures']))
  assert encoder.stream.width == found.shape[1] and encoder.stream.name == f'video/{name}'
  # float32, sums of at most 48; the values are of the order of 1.
  np.testing.assert_allclose(found, arrays['out/pictures'], atol=1e-5)
  assert arrays['out/pictures'].std() > 0.1
  np.testing.assert_allclose(text(folder).of_tokens(arrays['in/tokens']), arrays['out/texts'], atol=1e-5)


def test_an_element_of_several_pictures_is_their_mean(laid_out):
  name, folder, arrays = laid_out
  encoder = NetworkEncoder(NETWORKS[name][0](folder, rate='1/2', frames=2), batch=2)
  expected = arrays['out/pictures'].reshape(2, 2, -1).mean(1)
  np.testing.assert_allclose(encoder.encode_clip(Film(arrays['in/pictures'])), expected, atol=1e-5)


def test_weights_in_parts_are_the_same_and_incomplete_ones_are_refused(laid_out, tmp_path):
  name, folder, _ = laid_out
  network = NETWORKS[name][0]
  parts = shutil.copytree(folder, tmp_path / 'parts')
  arrays = load_file(parts / 'model.safetensors')
  (parts / 'model.safetensors').unlink()
  names = sorted(arrays)
  index = {}
  for number, chosen in enumerate((names[::2], names[1::2])):
    save_file({key: arrays[key] for key in chosen}, parts / f'part{number}.safetensors')
    index |= dict.fromkeys(chosen, f'part{number}.safetensors')
  (parts / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': index}))
  whole = NetworkEncoder(network(folder)).identity
  assert NetworkEncoder(network(str(parts))).identity['sha256'] == whole['sha256']
  assert folder not in json.dumps(whole)

  def refused(words):
    driver._opened.cache_clear()
    with pytest.raises(errors.ConfigError, match=words):
      NetworkEncoder(network(str(parts))).identity  # noqa: B018

  (parts / 'part1.safetensors').write_bytes(b'short')
  refused('no safetensors file')
  (parts / 'part1.safetensors').unlink()
  refused('incomplete')
  lost = arrays | {'vision_model.post_layernorm.bias': np.zeros(5, np.float32)}
  save_file(lost, parts / 'model.safetensors')
  refused('another model')
  del lost['vision_model.post_layernorm.bias']
  save_file(lost, parts / 'model.safetensors')
  refused('hold no vision_model.post_layernorm.bias')


@pytest.mark.parametrize(
  ('told', 'words'),
  [
    ('{"model_type": "bert"}', "'bert'"),
    ('[1]', 'no JSON object'),
    ('{', 'damaged'),
    (None, 'no such file'),
    ('{"model_type": "clip", "vision_config": {"hidden_act": "swish"}}', "'swish'"),
  ],
)
def test_a_folder_of_something_else_is_told(tmp_path, told, words):
  if told is not None:
    (tmp_path / 'config.json').write_text(told)
  with pytest.raises(errors.ConfigError, match=words):
    NetworkEncoder(clip.ClipNetwork(str(tmp_path)))


def test_an_exported_network_is_the_same_encoder_without_its_code(laid_out, tmp_path):
  name, folder, arrays = laid_out
  encoder = NetworkEncoder(NETWORKS[name][0](folder), batch=2)
  exported.write(encoder.network, encoder.identity, tmp_path / 'made')
  again = NetworkEncoder(exported.ExportedNetwork(str(tmp_path / 'made')), batch=3)
  film = Film(arrays['in/pictures'])
  np.testing.assert_allclose(again.encode_clip(film), encoder.encode_clip(film), atol=1e-6)
  assert again.identity == encoder.identity and again.stream == encoder.stream
  built = registry.build(encoder.identity, tmp_path, {name: str(tmp_path / 'made')})
  assert isinstance(built, NetworkEncoder) and isinstance(built.network, exported.ExportedNetwork)
  with pytest.raises(errors.ConfigError, match='exists already'):
    exported.write(encoder.network, encoder.identity, tmp_path / 'made')
  (tmp_path / 'made' / 'weights.safetensors').write_bytes(b'x')
  driver._opened.cache_clear()
  with pytest.raises(errors.ConfigError, match='copy the folder again'):
    NetworkEncoder(exported.ExportedNetwork(str(tmp_path / 'made'))).identity  # noqa: B018
