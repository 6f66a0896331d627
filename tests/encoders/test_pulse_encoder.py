import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.encoders.pulse import PulseEncoder, steps_of
from v2meow_jax.evaluation.measuring import Sound
from v2meow_jax.media.audio import load_audio, write_wav
from v2meow_jax.media.clip import MediaClip

ENCODER, RATE = PulseEncoder(), 16000


def music(seconds=24, seed=0):
  """Notes struck twice a second: soft and dark, then loud and dark, then loud and bright; 8 s each."""
  time = np.arange(seconds * RATE) / RATE
  third = (time // (seconds / 3)).astype(int)
  level = np.array([0.05, 0.5, 0.5])[third]
  pitch = np.array([220.0, 220.0, 1760.0])[third]
  wave = sum(np.sin(2 * np.pi * pitch * h * time) / h**2 for h in (1, 2, 3))
  noise = 1e-4 * np.random.default_rng(seed).standard_normal(len(time))
  return (level * wave * np.exp(-5 * (time % 0.5)) + noise).astype(np.float32)[:, None]


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp('pulse') / 'a.wav'
  write_wav(path, music() / 2, RATE)
  return str(path)


def encode(path, start=0.0, duration=24.0):
  return ENCODER.encode_clip(MediaClip(None, path, start, duration))


def test_the_three_steps_follow_loudness_attacks_and_brightness(path):
  tokens = encode(path)
  assert tokens.shape == (300, 1) and tokens.dtype == np.int32
  assert tokens.min() >= 0 and tokens.max() < ENCODER.stream.codes == 64
  loudness, onset, brightness = steps_of(tokens[:, 0]).T
  parts = [slice(5, 95), slice(105, 195), slice(205, 295)]
  means = [[curve[part].mean() for part in parts] for curve in (loudness, brightness)]
  assert means[0][0] + 1 < means[0][1] and means[0][0] + 1 < means[0][2]
  assert means[1][2] > max(means[1][:2]) + 1.5
  # Struck at every half second, 6.25 elements apart, and not in between.
  beats = (np.arange(1, 47) * 6.25).astype(int)
  near = np.array([onset[max(0, b - 1) : b + 2].max() for b in beats])
  between = np.array([onset[b + 3 : b + 5].max() for b in beats])
  assert near.min() >= 1 and between.mean() < 0.5  # soft ones less strongly


def test_tokens_are_relative_to_the_track(path, tmp_path):
  write_wav(tmp_path / 'soft.wav', music() / 20, RATE)
  same = encode(path) == encode(str(tmp_path / 'soft.wav'))
  assert same.mean() > 0.97  # noise and 16 bits weigh more in the softer one


@pytest.mark.parametrize(('start', 'first'), [(8.0, 100), (4.16, 52)])
def test_a_clip_has_the_tokens_of_its_track(path, start, first):
  np.testing.assert_array_equal(encode(path, start, 6.0), encode(path)[first : first + 75])


def test_a_clip_between_two_elements_begins_where_it_begins(path):
  shifted = encode(path, 8.03, 6.0)
  assert shifted.shape == (75, 1)
  assert 0.5 < (shifted == encode(path)[100:175]).mean() < 1


def test_beyond_the_end_the_last_element_lasts(path):
  tokens = encode(path, 20.0, 8.0)
  np.testing.assert_array_equal(tokens[50:], tokens[49:50].repeat(50, 0))


def test_a_file_of_hours_is_measured_in_sections(tmp_path):
  wave = music(150) / 2
  write_wav(tmp_path / 'long.wav', wave, RATE)
  encoder = PulseEncoder(longest=60)
  for number in range(3):
    # A section is read for as long as a clip that begins at its end.
    write_wav(tmp_path / 'section.wav', wave[60 * number * RATE : 60 * number * RATE + 70 * RATE], RATE)
    found = encoder.encode_clip(MediaClip(None, str(tmp_path / 'long.wav'), 60 * number + 20.0, 10.0))
    alone = ENCODER.encode_clip(MediaClip(None, str(tmp_path / 'section.wav'), 20.0, 10.0))
    np.testing.assert_array_equal(found, alone)


def test_sound_in_memory_is_a_track(path):
  sound, rate = load_audio(path, RATE, 1)
  np.testing.assert_array_equal(ENCODER.encode_clip(Sound.of(sound, rate)), encode(path))


def test_what_cannot_be_encoded_is_told(path):
  with pytest.raises(errors.MediaError, match='no sound at 30 s'):
    encode(path, 30.0, 2.0)
  with pytest.raises(errors.MediaError, match='no audio to read'):
    ENCODER.encode_clip(MediaClip('film.mp4', None, 0.0, 2.0))
  with pytest.raises(errors.ConfigError, match='a rate of 100 Hz'):
    PulseEncoder(rate=100)


def test_steps_come_back_from_tokens():
  steps = steps_of(np.arange(64))
  np.testing.assert_array_equal(steps @ [16, 4, 1], np.arange(64))
