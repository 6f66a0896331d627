import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.codec.spectral import ConvNeXtBlock, SpectralConfig

SMALL = SpectralConfig(
  window=64, spectrum_hop=16, downsampling=2, width=8, encoder_blocks=1, decoder_blocks=1
)


def noise(*shape):
  return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


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
  ],
)
def test_a_wrong_setting_is_refused(settings, words):
  with pytest.raises(errors.ConfigError, match=words):
    SpectralConfig(**settings)


@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize('downsampling', [1, 3])
def test_a_frame_is_a_hop_of_samples_both_ways(channels, downsampling):
  config = SpectralConfig(64, 16, downsampling, 8, 2, 1, 1)
  assert config.hop == 16 * downsampling
  network = config.build(channels, 5)
  audio = noise(3, 4 * config.hop, channels)
  params = network.init(jax.random.key(0), audio)
  latents = network.apply(params, audio, method='encode')
  assert latents.shape == (3, 4, 5)
  assert network.apply(params, latents, method='decode').shape == audio.shape


def test_examples_of_a_batch_do_not_see_each_other():
  network = SMALL.build(1, 5)
  audio = noise(2, 256, 1)
  params = network.init(jax.random.key(0), audio)
  apply = jax.jit(network.apply)
  other = audio.copy()
  other[1] *= 3
  np.testing.assert_array_equal(apply(params, audio)[0], apply(params, other)[0])
  assert (apply(params, audio)[1] != apply(params, other)[1]).any()


@pytest.mark.parametrize('level', [0.0, 1e-4, 1.0])
def test_values_and_gradients_are_finite_also_at_silence(level):
  network = SMALL.build(2, 5)
  audio = level * noise(1, 256, 2)
  params = network.init(jax.random.key(0), audio)

  @jax.jit
  def loss(params, audio):
    return jnp.mean(network.apply(params, audio) ** 2)

  value, gradients = jax.value_and_grad(loss, (0, 1))(params, audio)
  assert np.isfinite(value)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
  assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradients[0])) or not level


def test_an_untrained_head_cannot_overflow():
  network = SMALL.build(1, 5)
  params = network.init(jax.random.key(0), jnp.zeros((1, 256, 1)))
  huge = jax.tree.map(lambda x: 1000 * x, params)
  out = network.apply(huge, 1000 * noise(1, 8, 5), method='decode')
  assert np.isfinite(out).all()
  # 33 bins of magnitude at most e^8 (all but two count twice, over a window of 64), weighted overlap-add of
  # windows whose squares sum to 1.5: no sample can exceed this.
  assert np.abs(out).max() <= np.exp(8) * 64 / 64 * 4


def test_the_depthwise_convolution_is_that_of_numpy():
  block = ConvNeXtBlock(2, 0.5)
  x = noise(1, 20, 4)
  params = block.init(jax.random.key(0), x)
  taps = np.asarray(params['params']['depthwise'])
  _, state = block.apply(params, x, capture_intermediates=True)
  normed = np.asarray(state['intermediates']['LayerNorm_0']['__call__'][0])[0]
  # A correlation, centred: tap 3 is the present.
  convolved = np.stack([np.convolve(x[0, :, c], taps[::-1, c], 'same') for c in range(4)], 1)
  centred = convolved - convolved.mean(1, keepdims=True)
  # float32; Flax adds 1e-6 to the variance.
  np.testing.assert_allclose(normed, centred / np.sqrt(convolved.var(1, keepdims=True) + 1e-6), atol=1e-4)
