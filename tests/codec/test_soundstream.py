import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.codec.soundstream import SoundStreamConfig

DIMENSION, FRAMES = 5, 24
CHANNELS = {(2,): 1, (3, 4): 2}  # of the audio, by strides


def random_like(init, *args):
  """Parameters of the shapes that `init` gives, all of them random: no compilation, and no zeros."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(init, jax.random.key(0), *args)
  return jax.tree.map(lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


@functools.cache
def network(strides):
  config = SoundStreamConfig(strides, channels=2, dilations=(1, 3))
  built = config.build(audio_channels=CHANNELS[strides], dimension=DIMENSION, sample_rate=16000)
  params = random_like(built.init, jnp.zeros((1, FRAMES * config.hop, CHANNELS[strides])))
  encode = jax.jit(functools.partial(built.apply, method='encode'))
  decode = jax.jit(functools.partial(built.apply, method='decode'))
  return config, params, encode, decode


def noise(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
  'settings',
  [
    {'strides': ()},
    {'strides': (2, 0)},
    {'channels': 0},
    {'dilations': (1, 0)},
    {'strides': (0,), 'dilations': ()},
  ],
)
def test_a_wrong_setting_is_refused(settings):
  with pytest.raises(errors.ConfigError, match='must be positive'):
    SoundStreamConfig(**settings)


def test_a_single_stride_without_residual_units_is_a_network():
  assert SoundStreamConfig(strides=(4,), dilations=()).hop == 4


@pytest.mark.parametrize(('strides', 'hop'), [((2,), 2), ((3, 4), 12)])
def test_a_frame_is_a_hop_of_samples_both_ways(strides, hop):
  config, params, encode, decode = network(strides)
  assert config.hop == hop
  audio = noise(1, FRAMES * hop, CHANNELS[strides])
  latents = encode(params, audio)
  assert latents.shape == (1, FRAMES, DIMENSION)
  assert decode(params, latents).shape == audio.shape


def test_the_hop_is_the_product_of_the_strides():
  assert [SoundStreamConfig(strides).hop for strides in [(7,), (2, 3, 5), (3, 4, 5, 8)]] == [7, 30, 480]


@pytest.mark.parametrize('strides', CHANNELS)
def test_the_encoder_sees_no_later_sample(strides):
  config, params, encode, _ = network(strides)
  hop = config.hop
  audio = noise(1, FRAMES * hop, CHANNELS[strides])
  before = np.asarray(encode(params, audio))
  for sample in (3 * hop, 4 * hop + 1, 5 * hop - 1):
    changed = audio.copy()
    changed[:, sample:] += 1 + noise(*audio[:, sample:].shape, seed=1)
    after = np.asarray(encode(params, changed))
    whole = sample // hop  # frames that end before the sample
    np.testing.assert_array_equal(after[:, :whole], before[:, :whole])
    assert (after[:, whole] != before[:, whole]).any()


@pytest.mark.parametrize('strides', CHANNELS)
def test_the_decoder_sees_no_later_frame(strides):
  config, params, _, decode = network(strides)
  hop = config.hop
  latents = noise(1, FRAMES, DIMENSION)
  before = np.asarray(decode(params, latents))
  for frame in (1, 4, FRAMES - 1):
    changed = latents.copy()
    changed[:, frame:] += 1 + noise(1, FRAMES - frame, DIMENSION, seed=1)
    after = np.asarray(decode(params, changed))
    np.testing.assert_array_equal(after[:, : frame * hop], before[:, : frame * hop])
    assert (after[:, frame * hop] != before[:, frame * hop]).all()  # no needless delay either


def test_a_sample_reaches_as_far_as_the_kernels_do():
  # Kernel 7 in, units of kernel 7 with dilations 1 and 3, stride 2 with kernel 4, kernel 3 out.
  config, params, encode, _ = network((2,))
  audio = noise(1, FRAMES * config.hop, 1)
  changed = audio.copy()
  changed[:, 0] += 1
  differ = (np.asarray(encode(params, audio)) != np.asarray(encode(params, changed)))[0].any(-1)
  samples = 1 + 6 + 6 * 1 + 6 * 3  # from sample 0 on, before the stride
  blocks = -(-(samples + 2) // 2)  # kernel 4 reads the 2 samples before its own 2
  np.testing.assert_array_equal(differ, np.arange(FRAMES) < blocks + 2)


def test_the_number_of_parameters_has_its_closed_form():
  strides, channels, dilations, audio_channels = (3, 4), 2, (1, 3), 2
  _, params, _, _ = network(strides)

  def conv(kernel, inputs, outputs):
    return kernel * inputs * outputs + outputs

  def units(width):
    return len(dilations) * (conv(7, width, width) + conv(1, width, width))

  width = channels
  expected = conv(7, audio_channels, width)
  for stride in strides:
    expected += units(width) + conv(2 * stride, width, 2 * width)
    width *= 2
  expected += conv(3, width, DIMENSION) + conv(7, DIMENSION, width)
  for stride in reversed(strides):
    expected += conv(2 * stride, width, width // 2) + units(width // 2)
    width //= 2
  expected += conv(7, width, audio_channels)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
