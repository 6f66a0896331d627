import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.codec.spectral import ConvNeXtBlock, SpectralConfig

SMALL = SpectralConfig(
  window=64, spectrum_hop=16, downsampling=2, width=8, encoder_blocks=1, decoder_blocks=1
)

STEREO = SMALL.build(2, 5, 16000)


def noise(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@functools.cache
def stereo_params():
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(STEREO.init, jax.random.key(0), jnp.zeros((1, 256, 2)))
  return jax.tree.map(lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


@jax.jit
def power_and_gradients(params, audio):
  return jax.value_and_grad(lambda p, a: jnp.mean(STEREO.apply(p, a) ** 2), (0, 1))(params, audio)


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({'window': 1000}, 'window 1000'),
    ({'window': 320}, 'at least twice'),
    ({'downsampling': 0}, 'must be positive'),
    ({'width': 0}, 'must be positive'),
    ({'encoder_blocks': 0}, 'must be positive'),
    ({'decoder_blocks': 0}, 'must be positive'),
    ({'expansion': 0}, 'must be positive'),
    ({'spectrum_hop': 0}, 'hop 0'),
    ({'mels': 0}, 'must be positive'),
    ({'input': 'phase'}, "'phase' is not one of complex, magnitude"),
  ],
)
def test_a_wrong_setting_is_refused(settings, words):
  with pytest.raises(errors.ConfigError, match=words):
    SpectralConfig(**settings)


@pytest.mark.parametrize(('channels', 'downsampling'), [(1, 1), (2, 3)])
def test_a_frame_is_a_hop_of_samples_both_ways(channels, downsampling):
  config = SpectralConfig(64, 16, downsampling, 8, 2, 1, 1)
  assert config.hop == 16 * downsampling
  network = config.build(channels, 5, 16000)
  audio = noise(3, 4 * config.hop, channels)
  params = jax.eval_shape(network.init, jax.random.key(0), audio)
  latents = jax.eval_shape(functools.partial(network.apply, method='encode'), params, audio)
  assert latents.shape == (3, 4, 5)
  assert (
    jax.eval_shape(functools.partial(network.apply, method='decode'), params, latents).shape == audio.shape
  )


def test_examples_of_a_batch_do_not_see_each_other():
  audio = noise(2, 256, 2)
  apply, params = jax.jit(STEREO.apply), stereo_params()
  other = audio.copy()
  other[1] *= 3
  np.testing.assert_array_equal(apply(params, audio)[0], apply(params, other)[0])
  assert (apply(params, audio)[1] != apply(params, other)[1]).any()


@pytest.mark.parametrize('level', [0.0, 1e-4, 1.0])
def test_values_and_gradients_are_finite_also_at_silence(level):
  value, gradients = power_and_gradients(stereo_params(), level * noise(1, 256, 2))
  assert np.isfinite(value)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients[0])) or not level


def test_an_untrained_head_cannot_overflow():
  huge = jax.tree.map(lambda x: 1000 * x, stereo_params())
  out = jax.jit(functools.partial(STEREO.apply, method='decode'))(huge, 1000 * noise(1, 8, 5))
  assert np.isfinite(out).all()
  # 33 bins of magnitude at most e^8 (all but two count twice, over a window of 64), weighted overlap-add of
  # windows whose squares sum to 1.5: no sample can exceed this.
  assert np.abs(out).max() <= np.exp(8) * 64 / 64 * 4


def test_the_depthwise_convolution_is_that_of_numpy():
  block = ConvNeXtBlock(2, 0.5)
  x = noise(1, 20, 4)
  params = jax.jit(block.init)(jax.random.key(0), x)
  taps = np.asarray(params['params']['depthwise'])
  _, state = jax.jit(functools.partial(block.apply, capture_intermediates=True))(params, x)
  normed = np.asarray(state['intermediates']['LayerNorm_0']['__call__'][0])[0]
  # A correlation, centred: tap 3 is the present.
  convolved = np.stack([np.convolve(x[0, :, c], taps[::-1, c], 'same') for c in range(4)], 1)
  centred = convolved - convolved.mean(1, keepdims=True)
  # float32; Flax adds 1e-6 to the variance.
  np.testing.assert_allclose(normed, centred / np.sqrt(convolved.var(1, keepdims=True) + 1e-6), atol=1e-4)


MAGNITUDE = dataclasses.replace(SMALL, window=256, spectrum_hop=64, input='magnitude', mels=20)


def tones(channels=2):
  """A chord in every channel, its own, at 8 kHz."""
  rng = np.random.default_rng(3)
  time = np.arange(64 * 64)[:, None] / 8000
  frequency, phase = rng.uniform(150, 3000, (4, 1, channels)), rng.random((4, 1, channels))
  return (0.2 * np.sin(2 * np.pi * (frequency * time + phase))).sum(0).astype(np.float32)


@functools.cache
def magnitude_network(channels=2, config=MAGNITUDE):
  network = config.build(channels, 5, 8000)
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 1024, channels)))
  params = jax.tree.map(lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), shapes)
  return jax.jit(functools.partial(network.apply, params, method='encode'))


def test_the_encoder_of_magnitudes_sees_the_logarithm_of_mel_bands_of_each_channel():
  network = MAGNITUDE.build(2, 5, 8000)
  audio = tones()
  variables = jax.jit(network.init)(jax.random.key(0), audio[None])
  seen = {}

  def look(next_fun, args, kwargs, context):
    if context.module.name == 'encoder_in':
      seen['features'] = np.asarray(args[0])
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(look):
    network.apply(variables, audio[None], method='encode')
  filters = librosa.filters.mel(sr=8000, n_fft=256, n_mels=20)
  padded = np.pad(audio.T.astype(np.float64), ((0, 0), (96, 96)))
  spectrum = librosa.stft(padded, n_fft=256, hop_length=64, center=False)
  # A floor under the root, whose gradient at nothing is none, and one under the logarithm.
  bands = np.log(filters @ np.sqrt(np.abs(spectrum) ** 2 + 1e-8) + 1e-4) / 4  # [channels, mels, frames]
  expected = bands.transpose(2, 0, 1).reshape(64, 40)
  np.testing.assert_allclose(seen['features'][0], expected, atol=1e-4)  # float32 transforms under a logarithm


@pytest.mark.parametrize('kind', ['magnitude', 'complex'])
def test_a_sign_is_nothing_to_magnitudes_and_a_sample_little(kind):
  audio, encode = tones(), magnitude_network(config=dataclasses.replace(MAGNITUDE, input=kind))
  delayed = np.concatenate([audio, audio[:64]])[1:-63]
  plain, flipped, late = (np.asarray(encode(x[None]))[0, 2:-2] for x in (audio, -audio, delayed))
  size = np.abs(plain).mean()
  assert (np.abs(flipped - plain).max() == 0) == (kind == 'magnitude')
  assert (np.abs(late - plain).mean() < 0.05 * size) == (kind == 'magnitude')


def test_channels_are_told_apart_by_magnitudes():
  audio, encode = tones(), magnitude_network()
  same = np.asarray(encode(audio[None]))
  swapped = np.asarray(encode(audio[None, :, ::-1]))
  assert np.abs(same - swapped).mean() > 0.1 * np.abs(same).mean()
