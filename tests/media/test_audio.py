import os
import resource

import numpy as np
import pytest
import soundfile
from media_files import write_audio
from scipy import signal

from v2meow_jax import errors
from v2meow_jax.media import audio


@pytest.fixture
def noise():
  """3 s at 44.1 kHz of band-limited noise, float32 [samples, 2]."""
  white = np.random.default_rng(0).normal(size=(132_300, 2)) * 0.1
  return signal.sosfilt(signal.butter(8, 3000, fs=44_100, output='sos'), white, axis=0).astype(np.float32)


def test_wav_as_it_is(sound, tone):
  stereo, rate = audio.load_audio(sound, channels=None)
  assert rate == 44_100 and stereo.dtype == np.float32
  np.testing.assert_allclose(stereo, tone, atol=1 / 32767)
  mono, _ = audio.load_audio(sound)
  np.testing.assert_allclose(mono, tone.mean(axis=1, keepdims=True), atol=1 / 32767)


def test_mono_is_duplicated(tmp_path, tone):
  path = write_audio(tmp_path / 'a.flac', tone[:, :1], 44_100, 'flac')
  stereo, _ = audio.load_audio(path, channels=2)
  assert stereo.shape == tone.shape
  np.testing.assert_array_equal(stereo[:, 0], stereo[:, 1])


@pytest.mark.parametrize('subtype', ['PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'FLOAT', 'DOUBLE'])
def test_sample_formats(tmp_path, tone, subtype):
  soundfile.write(tmp_path / 'a.wav', tone, 44_100, subtype=subtype)
  loaded, _ = audio.load_audio(tmp_path / 'a.wav', channels=None)
  expected, _ = soundfile.read(tmp_path / 'a.wav')
  np.testing.assert_allclose(loaded, expected, atol=1e-6)


@pytest.mark.parametrize('name, codec', [('a.wav', 'pcm_s16le'), ('a.flac', 'flac'), ('a.mka', 'flac')])
@pytest.mark.parametrize('start', [0.0, 0.75, 1.9])
def test_click_is_where_it_was_put(tmp_path, name, codec, start):
  clicks = np.zeros((110_250, 1), np.float32)
  clicks[90_000] = 0.9
  path = write_audio(tmp_path / name, clicks, 44_100, codec)
  loaded, _ = audio.load_audio(path, start=start, duration=0.4 if start > 1 else None)
  assert np.argmax(loaded) == 90_000 - round(start * 44_100)
  assert np.count_nonzero(loaded) == 1


@pytest.mark.parametrize(
  'name, codec', [('a.m4a', 'aac'), ('a.mp3', 'libmp3lame'), ('a.ts', 'aac'), ('a.aac', 'aac')]
)
@pytest.mark.parametrize('rate', [44_100, 16_000])
def test_span_is_a_slice_of_the_whole(tmp_path, noise, name, codec, rate):
  path = write_audio(tmp_path / name, noise, 44_100, codec)
  whole, _ = audio.load_audio(path, rate)
  for start, duration in ((0.03, 0.5), (1.2345, 1.0), (2.5, 0.25)):
    span, _ = audio.load_audio(path, rate, start=start, duration=duration)
    assert len(span) == round(duration * rate)
    begin = round(start * rate)
    np.testing.assert_allclose(span, whole[begin : begin + len(span)], atol=2e-4)


@pytest.mark.parametrize('name, codec', [('a.m4a', 'aac'), ('a.mp3', 'libmp3lame')])
def test_encoder_delay_is_removed(tmp_path, noise, name, codec):
  path = write_audio(tmp_path / name, noise, 44_100, codec)
  loaded, _ = audio.load_audio(path)
  reference = noise.mean(axis=1)
  n = min(len(loaded), len(reference))
  shift = np.argmax(signal.correlate(loaded[:n, 0], reference[:n])) - (n - 1)
  assert shift == 0


@pytest.mark.parametrize('rate', [16_000, 24_000, 32_000, 48_000])
def test_resampling_against_scipy(tmp_path, noise, rate):
  path = write_audio(tmp_path / 'a.wav', noise, 44_100, 'pcm_s16le')
  common = np.gcd(rate, 44_100)
  exact, _ = audio.load_audio(path, channels=None)
  expected = signal.resample_poly(
    exact.astype(np.float64), rate // common, 44_100 // common, axis=0, window=('kaiser', 12.0)
  )
  loaded, got = audio.load_audio(path, rate, channels=None)
  assert got == rate and len(loaded) == 3 * rate
  inside = slice(rate // 10, -rate // 10)
  error = loaded[inside] - expected[inside]
  assert np.sqrt(np.mean(error**2)) < 2e-3 * np.sqrt(np.mean(expected**2))


def test_late_sound_is_padded_and_early_sound_cut(tmp_path, tone):
  ones = np.full((44_100, 1), 0.5, np.float32)
  late = write_audio(tmp_path / 'late.mkv', ones, 44_100, 'flac', video_start=0.5, audio_start=0.8)
  loaded, _ = audio.load_audio(late)
  assert np.flatnonzero(loaded)[0] == pytest.approx(0.3 * 44_100, abs=1)
  assert len(loaded) == pytest.approx(1.3 * 44_100, abs=1)
  early = write_audio(tmp_path / 'early.mkv', ones, 44_100, 'flac', video_start=0.5, audio_start=0.0)
  loaded, _ = audio.load_audio(early)
  assert len(loaded) == pytest.approx(0.5 * 44_100, abs=1)
  assert loaded.all()


def test_shorter_where_the_file_ends(sound):
  loaded, _ = audio.load_audio(sound, 16_000, start=2.0, duration=2.0)
  assert len(loaded) == 8000


@pytest.mark.parametrize('name, codec', [('a.mp3', 'libmp3lame'), ('a.ts', 'aac'), ('a.m4a', 'aac')])
def test_damage_in_the_middle_is_passed_over(tmp_path, noise, name, codec):
  path = write_audio(tmp_path / name, noise, 44_100, codec)
  whole, _ = audio.load_audio(path)
  data = bytearray(path.read_bytes())
  middle = len(data) // 2
  data[middle : middle + 3000] = np.random.default_rng(1).integers(0, 256, 3000, dtype=np.uint8).tobytes()
  path.write_bytes(data)
  damaged, _ = audio.load_audio(path)
  n = 20_000
  assert np.abs(damaged[2000:n] - whole[2000:n]).max() < 1e-3
  if name == 'a.mp3':  # without time stamps, what follows the damage moves up
    assert 100_000 < len(damaged) <= len(whole)
    return
  assert len(damaged) == pytest.approx(len(whole), abs=1)
  assert np.abs(damaged[-n:-3000] - whole[-n:-3000]).max() < 1e-3


def test_nothing_decodes(tmp_path, noise):
  path = write_audio(tmp_path / 'a.m4a', noise, 44_100, 'aac')
  data = bytearray(path.read_bytes())
  begin, end = data.index(b'mdat') + 4, data.index(b'moov') - 4
  data[begin:end] = b'\xff' * (end - begin)
  path.write_bytes(data)
  with pytest.raises(errors.MediaError, match='none of its audio decodes'):
    audio.load_audio(path)


def test_bad_input(constant, sound, not_media):
  with pytest.raises(errors.MediaError, match='no audio stream'):
    audio.load_audio(constant)
  with pytest.raises(errors.MediaError, match=r'notes\.mp4'):
    audio.load_audio(not_media)
  with pytest.raises(errors.MediaError, match='ends before'):
    audio.load_audio(sound, start=3.0)
  for arguments in ({'channels': 3}, {'start': -1.0}, {'duration': 0.0}, {'sample_rate': 0}):
    with pytest.raises(ValueError):
      audio.load_audio(sound, **arguments)


def test_write_wav(tmp_path, tone):
  path = tmp_path / 'a.wav'
  audio.write_wav(path, tone * 5, 44_100)
  info = soundfile.info(path)
  assert (info.subtype, info.samplerate, info.channels) == ('PCM_16', 44_100, 2)
  np.testing.assert_allclose(soundfile.read(path)[0], np.clip(tone * 5, -1, 1), atol=1.01 / 32768)
  audio.write_wav(path, tone[:, 0], 44_100)
  assert soundfile.info(path).channels == 1
  assert os.listdir(tmp_path) == ['a.wav']


def test_write_wav_fails_whole(tmp_path, tone):
  path = tmp_path / 'a.wav'
  path.write_bytes(b'before')
  for bad in (np.nan, np.inf):
    with pytest.raises(ValueError, match='NaN'):
      audio.write_wav(path, np.array([0.0, bad]), 44_100)
  with pytest.raises(FileNotFoundError):
    audio.write_wav(tmp_path / 'none' / 'a.wav', tone, 44_100)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
  try:
    with pytest.raises(OSError):
      audio.write_wav(path, tone, 44_100)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert os.listdir(tmp_path) == ['a.wav'] and path.read_bytes() == b'before'
