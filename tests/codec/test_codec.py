import functools
import pickle
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import description, errors
from v2meow_jax.codec.codec import TYPES, Codec, CodecConfig
from v2meow_jax.codec.quantizer import QuantizerConfig
from v2meow_jax.codec.soundstream import SoundStreamConfig
from v2meow_jax.codec.spectral import SpectralConfig

NETWORKS = {
  'spectral': SpectralConfig(
    window=64, spectrum_hop=16, downsampling=2, width=8, encoder_blocks=1, decoder_blocks=1
  ),
  'soundstream': SoundStreamConfig(strides=(4, 4), channels=2, dilations=(1,)),
}


def random_like(init, *args):
  """Parameters of the shapes that `init` gives, all of them random: no compilation, and no zeros."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(init, jax.random.key(0), *args)
  return jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


@functools.cache
def codec(kind='spectral', channels=1):
  config = CodecConfig(NETWORKS[kind], QuantizerConfig(3, 16, 4), 8000, channels)
  params = random_like(config.build().init, np.zeros((1, 64, channels), np.float32))['params']
  rng = np.random.default_rng(1)
  books = rng.standard_normal((3, 16, 4)) * 0.5 ** np.arange(3)[:, None, None]
  return Codec(config, {'params': params, 'codebooks': books})


def noise(samples, channels=1):
  return (0.3 * np.random.default_rng(0).standard_normal((samples, channels))).astype(np.float32)


@pytest.mark.parametrize('kind', NETWORKS)
def test_codes_are_frames_by_levels_and_audio_is_whole_hops(kind):
  hop = codec(kind).config.network.hop
  for samples in (1, hop - 1, hop, 9 * hop + 1):
    codes = codec(kind).encode(noise(samples))
    frames = -(-samples // hop)
    assert codes.shape == (frames, 3) and codes.dtype == np.int32
    assert codes.min() >= 0 and codes.max() < 16
    audio = codec(kind).decode(codes)
    assert audio.shape == (frames * hop, 1) and audio.dtype == np.float32


def test_codes_are_not_all_the_same():
  assert all(len(np.unique(codec().encode(noise(640))[:, k])) > 1 for k in range(3))


def test_stereo_goes_through():
  codes = codec(channels=2).encode(noise(320, 2))
  assert codec(channels=2).decode(codes).shape == (320, 2)


@pytest.mark.parametrize(
  'audio',
  [
    np.zeros(64),
    np.zeros((64, 2)),
    np.zeros((0, 1)),
    np.zeros((1, 1, 64, 1)),
    np.full((64, 1), np.nan),
    np.full((64, 1), np.inf),
  ],
)
def test_audio_that_cannot_be_encoded_is_refused(audio):
  with pytest.raises(ValueError, match='audio'):
    codec().encode(audio)


@pytest.mark.parametrize(
  'codes',
  [
    np.zeros(4, int),
    np.zeros((0, 3), int),
    np.zeros((4, 0), int),
    np.zeros((4, 4), int),
    np.full((4, 3), 16),
    np.full((4, 3), -1),
  ],
)
def test_codes_that_cannot_be_decoded_are_refused(codes):
  with pytest.raises(ValueError, match='codes'):
    codec().decode(codes)


@pytest.mark.parametrize('kind', NETWORKS)
def test_the_last_frame_is_filled_with_zeros(kind):
  hop = codec(kind).config.network.hop
  audio = noise(10 * hop - 5)  # hops of 32 and 16 samples
  np.testing.assert_array_equal(
    codec(kind).encode(audio), codec(kind).encode(np.pad(audio, ((0, 5), (0, 0))))
  )


def test_a_causal_codec_gives_the_same_codes_whatever_follows():
  audio = noise(640)
  followed = audio.copy()
  followed[320:] = 0
  before, after = codec('soundstream').encode(audio), codec('soundstream').encode(followed)
  np.testing.assert_array_equal(before[:20], after[:20])
  assert (before != after).any()


def test_encode_and_decode_are_network_and_greedy_quantiser():
  made = codec()
  network, params = made.config.build(), {'params': made.weights['params']}
  books = made.weights['codebooks']
  encode, decode = (jax.jit(functools.partial(network.apply, method=name)) for name in ('encode', 'decode'))
  latents = np.asarray(encode(params, noise(320)[None]))[0]
  codes = made.encode(noise(320))
  for point, found in zip(latents, codes, strict=True):
    for k in range(3):
      assert found[k] == np.argmin(np.sum((point - books[k]) ** 2, -1))
      point = point - books[k][found[k]]
  for used in (1, 3):
    summed = sum(books[k][codes[:, k]] for k in range(used))
    expected = decode(params, summed[None])[0]
    # Compiled with and without the quantiser, float32.
    np.testing.assert_allclose(made.decode(codes[:, :used]), expected, rtol=1e-4, atol=1e-5)


def test_a_pickled_codec_gives_the_same_codes_and_identity():
  back = pickle.loads(pickle.dumps(codec()))
  np.testing.assert_array_equal(back.encode(noise(640)), codec().encode(noise(640)))
  assert back.identity == codec().identity
  given = Codec(codec().config, codec().weights, {'encoder': 'codec', 'sha256': 'abc'})
  assert pickle.loads(pickle.dumps(given)).identity == {'encoder': 'codec', 'sha256': 'abc'}


def test_the_identity_changes_with_any_weight_and_any_setting():
  config, weights = codec().config, codec().weights
  seen = {str(codec().identity)}
  leaves, tree = jax.tree.flatten(weights)
  for i in range(len(leaves)):
    changed = leaves.copy()
    changed[i] = changed[i].copy()
    changed[i].flat[-1] += 1e-6
    seen.add(str(Codec(config, jax.tree.unflatten(tree, changed)).identity))
  assert len(seen) == 1 + len(leaves)
  other = CodecConfig(config.network, config.quantizer, 16000)
  assert Codec(other, weights).identity != codec().identity
  assert Codec(config, jax.tree.map(jnp.asarray, weights)).identity == codec().identity


def test_the_stream_follows_from_the_configuration():
  assert codec().stream.rate == Fraction(8000, 32)
  assert (codec().stream.width, codec().stream.codes, codec().stream.name) == (3, 16, 'audio/acoustic')
  assert CodecConfig(SoundStreamConfig(), QuantizerConfig()).tokens.rate == 50  # the paper's: 24 kHz, hop 480


def test_the_configuration_survives_its_description_and_is_validated():
  for kind in NETWORKS:
    config = codec(kind).config
    assert description.rebuild(description.describe(config), TYPES) == config
  with pytest.raises(errors.ConfigError, match='must be positive'):
    CodecConfig(NETWORKS['spectral'], QuantizerConfig(), sample_rate=0)


class FakeClip:
  def __init__(self, duration):
    self.duration = duration

  def audio(self, sample_rate, channels):
    return noise(round(self.duration * sample_rate), channels)


def test_a_clip_has_as_many_frames_as_its_stream_says():
  for duration in (0.078, 0.0781, 0.0799, 0.08):
    assert len(codec().encode_clip(FakeClip(duration))) == codec().stream.length(duration)
