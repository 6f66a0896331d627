from fractions import Fraction

import librosa
import numpy as np
import pytest
import safetensors.numpy

from v2meow_jax import errors
from v2meow_jax.encoders.semantic import SemanticConfig, SemanticEncoder, features

RATE = 8000


def config(**settings):
  return SemanticConfig(**({'sample_rate': RATE, 'codes': 16} | settings))


def tone(frequency, seconds=1.0, level=0.3):
  return (level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def audio(seconds=2.0, seed=0):
  rng = np.random.default_rng(seed)
  return (0.1 * rng.standard_normal(round(seconds * RATE))).astype(np.float32)


TONES = (220.0, 311.1, 466.2, 830.6)


@pytest.fixture(scope='module')
def encoder():
  return SemanticEncoder.fit(config(), features(config(), np.concatenate([tone(f) for f in TONES])))


@pytest.mark.parametrize(
  ('settings', 'words'), [({'rate': 30}, 'rate 30'), ({'smoothing': 2}, 'smoothing 2')]
)
def test_a_wrong_setting_is_refused(settings, words):
  with pytest.raises(errors.ConfigError, match=words):
    config(**settings)


def test_the_mel_part_is_that_of_librosa():
  settings = config(smoothing=1)
  samples = audio()
  hop, window = 320, 1280
  # Frame i of librosa is centred on i hops, ours on i + 1/2: half a hop is left out.
  reference = librosa.feature.melspectrogram(
    y=samples[hop // 2 :], sr=RATE, n_fft=window, hop_length=hop, window='hann', center=True, n_mels=40
  ).T
  ours = features(settings, samples)[:, :40]
  inner = slice(3, 45)  # whole windows without anyone's padding
  # float32 sums of 640 bins.
  np.testing.assert_allclose(np.exp(ours[inner]) - 1e-4, reference[inner], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(('frequency', 'pitch_class'), [(440.0, 9), (261.63, 0), (880.0, 9), (369.99, 6)])
def test_a_pure_tone_is_loudest_in_its_own_pitch_class(frequency, pitch_class):
  chroma = features(config(), tone(frequency))[3:-3, 40:]
  np.testing.assert_array_equal(chroma.argmax(1), pitch_class)
  # A quotient by the greatest, less a floor of 0.001 that a tone of this level does not see.
  np.testing.assert_allclose(chroma.max(1), 1, atol=1e-3)


def test_smoothing_is_a_centred_mean_of_frames():
  rough, smooth = features(config(smoothing=1), audio()), features(config(smoothing=5), audio())
  for i in (2, 20, 47):
    # float32 sums of five.
    np.testing.assert_allclose(smooth[i], rough[i - 2 : i + 3].mean(0), atol=1e-5)


def test_a_click_is_loudest_in_the_frame_that_holds_it():
  settings = config(smoothing=1)
  for frame in (5, 17):
    samples = np.zeros(RATE, np.float32)
    samples[frame * 320 + 160] = 1
    assert features(settings, samples)[:, :40].mean(1).argmax() == frame


class FakeClip:
  def __init__(self, duration):
    self.duration = duration

  def audio(self, sample_rate, channels=1):
    return audio(4.0)[: round(self.duration * sample_rate), None]


def test_a_clip_has_as_many_tokens_as_its_stream_says(encoder):
  wrong = []
  # Durations of every kind: sums of frames of 24, 25 and 30 Hz, and some that end between two tokens.
  durations = [n / 30 for n in range(15, 100, 7)] + [n / 25 for n in range(13, 90, 11)]
  durations += [0.02 * n for n in range(41, 150, 4)] + [1.0 + 1e-6, 1.7, 2.02, 2.02 + 1e-6]
  for duration in durations:
    found, expected = len(encoder.encode_clip(FakeClip(duration))), round(Fraction(duration) * 25)
    if found != expected:
      wrong.append((duration, found, expected))
  assert not wrong


def test_fit_and_encode_give_the_same_twice(encoder):
  points = features(config(), np.concatenate([tone(f) for f in TONES]))
  again = SemanticEncoder.fit(config(), points)
  np.testing.assert_array_equal(again.centres, encoder.centres)
  assert again.identity == encoder.identity
  np.testing.assert_array_equal(again.encode(audio()), encoder.encode(audio()))
  assert SemanticEncoder.fit(config(), points, seed=1).identity != encoder.identity


def test_tokens_are_the_nearest_centres_of_normalised_features(encoder):
  points = features(config(), audio())
  points = (points - encoder.mean) / encoder.deviation
  # Both parts have unit variance in all.
  points = np.concatenate([points[:, :40] / np.sqrt(40), points[:, 40:] / np.sqrt(12)], 1)
  expected = np.linalg.norm(points[:, None] - encoder.centres[None], axis=-1).argmin(1)
  tokens = encoder.encode(audio())
  assert tokens.shape == (50, 1) and tokens.dtype == np.int32
  # float32 ties may fall either way.
  assert (tokens[:, 0] == expected).mean() > 0.97


def test_distinct_tones_have_distinct_tokens(encoder):
  found = [set(encoder.encode(tone(f))[3:-3, 0]) for f in TONES]
  for i, one in enumerate(found):
    for other in found[:i]:
      assert not one & other


def test_too_little_audio_is_refused():
  with pytest.raises(errors.DatasetError, match='10 frames of audio cannot make 16 clusters'):
    SemanticEncoder.fit(config(), np.zeros((10, 52), np.float32))


def test_a_saved_encoder_is_read_back_equal(encoder, tmp_path):
  path = tmp_path / 'semantic.safetensors'
  encoder.save(path)
  back = SemanticEncoder.load(path)
  assert back.config == encoder.config
  assert back.identity == encoder.identity
  assert back.stream == encoder.stream
  np.testing.assert_array_equal(back.centres, encoder.centres)
  np.testing.assert_array_equal(back.encode(audio()), encoder.encode(audio()))


def test_a_missing_or_damaged_file_is_a_bundle_error(encoder, tmp_path):
  path = tmp_path / 'semantic.safetensors'
  encoder.save(path)
  whole = path.read_bytes()
  cases = {
    'cut.safetensors': whole[: len(whole) // 2],
    'empty.safetensors': b'',
    'text.safetensors': b'not a tensor file at all',
    'plain.safetensors': safetensors.numpy.save({'mean': encoder.mean}),
    'no_centres.safetensors': safetensors.numpy.save(
      {'mean': encoder.mean, 'deviation': encoder.deviation},
      metadata=safetensors_metadata(path),
    ),
  }
  for name, data in cases.items():
    (tmp_path / name).write_bytes(data)
    with pytest.raises(errors.BundleError, match=name):
      SemanticEncoder.load(tmp_path / name)
  with pytest.raises(errors.BundleError, match=r'none\.safetensors'):
    SemanticEncoder.load(tmp_path / 'none.safetensors')


def safetensors_metadata(path):
  with safetensors.safe_open(str(path), 'numpy') as file:
    return file.metadata()
