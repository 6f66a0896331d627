"""DAC and EnCodec against what the published code made of random weights; see fixtures/README.md."""

import pathlib

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.codec import convolution, published
from v2meow_jax.codec.codec import Codec
from v2meow_jax.codec.dac import DacConfig
from v2meow_jax.codec.encodec import EncodecConfig

FIXTURES = pathlib.Path(__file__).parent / 'fixtures'
NAMES = sorted(path.stem for path in FIXTURES.glob('*.npz'))
RATES = {'dac_16k': 16000, 'dac_24k': 24000, 'dac_44k': 44100, 'encodec_24k': 24000, 'encodec_32k': 32000}


NORM = 'parametrizations.weight.original0'


def load(name):
  with np.load(FIXTURES / f'{name}.npz') as found:
    arrays = {key.removeprefix('weights/'): found[key] for key in found if key.startswith('weights/')}
    return arrays, {key: found[key] for key in ('audio', 'codes', 'decoded')}


def codec(name, **settings):
  rate = RATES[name.removesuffix('_authors')]
  return Codec(*published.convert(load(name)[0], {'sampling_rate': rate} | settings))


def off(audio, wanted):
  """The greatest error, over the RMS of what is wanted."""
  return np.abs(audio - wanted).max() / np.sqrt(np.mean(wanted.astype(np.float64) ** 2))


def test_there_is_a_fixture_of_every_model_and_of_both_authors():
  assert set(NAMES) == {*RATES, 'dac_44k_authors', 'encodec_24k_authors'}


@pytest.mark.parametrize('name', NAMES)
def test_codes_and_audio_are_those_of_the_published_code(name):
  made, (_, told) = codec(name), load(name)
  codes = made.encode(told['audio'][..., None])
  assert codes.shape == told['codes'].shape
  # No frame of these is tied: the tool that made them says how near two entries come.
  np.testing.assert_array_equal(codes, told['codes'])
  used = [len(np.unique(told['codes'][..., k])) for k in range(codes.shape[-1])]
  assert min(used) >= 8, 'half of the 16 codes of every level, or the comparison says little'
  audio = made.decode(told['codes'].astype(int))[..., 0]
  wanted = told['decoded']
  assert audio.shape[1] == codes.shape[1] * made.hop >= wanted.shape[1]
  assert off(audio[:, : wanted.shape[1]], wanted) < 1e-4
  assert not audio[:, wanted.shape[1] :].any()


@pytest.mark.parametrize('name', [name for name in NAMES if name.startswith('dac')])
def test_audio_is_theirs_with_fewer_products(name, monkeypatch):
  monkeypatch.setattr(convolution, 'CHANNELS', 1)
  made, (_, told) = codec(name), load(name)
  audio, wanted = made.decode(told['codes'].astype(int))[..., 0], told['decoded']
  assert off(audio[:, : wanted.shape[1]], wanted) < 1e-4


# That every model's layers stream is in test_stream.py; one of each family here.
@pytest.mark.parametrize(
  'name',
  [name if name in ('dac_16k',) else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_in_blocks_the_result_is_the_same(name):
  made, (_, told) = codec(name), load(name)
  sound = told['audio'][..., None]
  step = 4 * made.hop
  found = np.concatenate(
    list(made.encode_blocks(sound[:, at : at + step] for at in range(0, sound.shape[1], step))), 1
  )
  np.testing.assert_array_equal(found, told['codes'])
  decoder = made.decoder(block=3)
  state, out = decoder.start(), []
  for t in range(found.shape[1]):
    state, audio = decoder.push(state, found[:, t : t + 1], last=t == found.shape[1] - 1)
    out += [] if audio is None else [audio]
  audio = np.concatenate(out, 1)[..., 0]
  wanted = told['decoded']
  assert audio.shape == wanted.shape and off(audio, wanted) < 1e-4


def test_fewer_levels_are_the_first_ones():
  arrays, told = load('encodec_24k')
  made = Codec(*published.convert(arrays, {'sampling_rate': 24000}, levels=2))
  np.testing.assert_array_equal(made.encode(told['audio'][..., None]), told['codes'][..., :2])
  with pytest.raises(errors.ConfigError, match='9 levels: the codec has 1 to 3'):
    published.convert(arrays, {'sampling_rate': 24000}, levels=9)


def spelled(arrays, g, v):
  """The same weights under weight norm, in another spelling; with a norm of its own in the direction."""
  made, rng = {}, np.random.default_rng(0)
  for name, value in arrays.items():
    if name.endswith('.weight') and value.ndim == 3:
      base = name.removesuffix('weight')
      norm = np.sqrt((value.astype(np.float64) ** 2).sum((1, 2), keepdims=True))
      made[base + g] = norm.astype(np.float32)
      made[base + v] = (value * rng.uniform(0.5, 2, norm.shape)).astype(np.float32)
    else:
      made[name] = value
  return made


@pytest.mark.parametrize(
  'spelling',
  [('weight_g', 'weight_v'), ('parametrizations.weight.original0', 'parametrizations.weight.original1')],
)
def test_weight_norm_in_every_spelling_is_the_plain_weight(spelling):
  arrays, _ = load('dac_16k')
  config, plain = published.convert(arrays, {'sampling_rate': 16000})
  same_config, same = published.convert(spelled(arrays, *spelling), {'sampling_rate': 16000})
  assert same_config == config and isinstance(config.network, DacConfig)
  for name, value in plain['params'].items():
    for key, leaf in _leaves(value):
      np.testing.assert_allclose(dict(_leaves(same['params'][name]))[key], leaf, rtol=1e-5, atol=1e-7)


def _leaves(tree, path=''):
  if not isinstance(tree, dict):
    return [(path, tree)]
  return [leaf for key, value in tree.items() for leaf in _leaves(value, f'{path}/{key}')]


def test_the_published_sizes_are_known_by_their_shapes():
  arrays, _ = load('dac_16k')
  # Three codebooks are in the small ones: no published model has as many, so the rate must be said.
  with pytest.raises(errors.BundleError, match='sample rate'):
    published.convert(arrays)
  for k in range(3, 12):
    arrays |= {
      name.replace('quantizers.0', f'quantizers.{k}'): value
      for name, value in arrays.items() if '.quantizers.0.' in name
    }  # fmt: skip
  assert published.convert(arrays)[0].sample_rate == 16000


def test_32_khz_is_centred_and_24_is_causal():
  networks = [codec(name).config.network for name in ('encodec_24k', 'encodec_32k')]
  assert networks == [
    EncodecConfig((2, 4, 5, 8), 2),
    EncodecConfig((4, 4, 5, 8), 2, causal=False, shortcut=False),
  ]


def broken(name, change):
  arrays = dict(load(name)[0])
  change(arrays)
  return arrays


@pytest.mark.parametrize(
  ('arrays', 'told'),
  [
    ({'weight': np.zeros(3)}, 'no checkpoint of DAC or EnCodec'),
    ({}, 'no checkpoint of DAC or EnCodec'),
    (dict.fromkeys(['encoder.model.0.conv.norm.weight', 'encoder.model.13.lstm.weight_ih_l0'], 0), '48 kHz'),
    ({'encoder_transformer.layers.0.mlp.fc1.weight': np.zeros(3)}, 'Mimi'),
    (broken('dac_16k', lambda a: a.pop('decoder.conv2.weight')), r'no array decoder\.conv2\.weight'),
    (broken('dac_16k', lambda a: a.pop('encoder.conv1.weight')), r'no array .*encoder\.conv1\.weight'),
    (broken('dac_24k', lambda a: a.pop(f'encoder.conv1.{NORM}')), 'no array .*original0'),
    (broken('encodec_24k', lambda a: a.pop('encoder.layers.13.lstm.bias_hh_l1')), 'no array .*bias_hh_l1'),
    (broken('encodec_24k', lambda a: a.update({'decoder.layers.99.conv.bias': 0})), '1 arrays that this'),
    (
      broken('encodec_24k', lambda a: a.update({'decoder.layers.0.conv.bias': np.zeros(3)})),
      'the checkpoint has .3,. for decoder_0/conv/bias',
    ),
  ],
)  # fmt: skip
def test_what_is_no_whole_checkpoint_is_told_in_a_sentence(arrays, told):
  with pytest.raises(errors.BundleError, match=told) as found:
    published.convert(arrays, {'sampling_rate': 16000})
  assert '\n' not in str(found.value)
