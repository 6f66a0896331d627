import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal

from v2meow_jax.codec import spectrogram

RATE = 16000
SIZES = [(512, 128), (256, 128), (480, 160)]


def noise(samples, batch=()):
  return np.random.default_rng(0).standard_normal((*batch, samples)).astype(np.float32)


@pytest.mark.parametrize('window', [64, 1280])
def test_the_window_is_the_periodic_hann_of_scipy(window):
  # float32 against float64.
  np.testing.assert_allclose(spectrogram.hann(window), scipy.signal.get_window('hann', window), atol=1e-7)


def test_frames_are_slices_of_the_signal():
  x = noise(1000)
  frames = spectrogram.frames_of(jnp.asarray(x), 96, 32)
  expected = [x[i : i + 96] for i in range(0, 992 - 96 + 1, 32)]  # 31 whole hops
  np.testing.assert_array_equal(frames, np.stack(expected))


@pytest.mark.parametrize(('window', 'hop'), SIZES)
def test_stft_is_that_of_librosa_half_a_hop_later(window, hop):
  x = noise(hop * 40)
  ours = np.asarray(spectrogram.stft(x, window, hop))
  assert ours.shape == (40, window // 2 + 1)
  # Frame i of librosa is centred on i hops, ours on i + 1/2.
  reference = librosa.stft(x[hop // 2 :], n_fft=window, hop_length=hop, window='hann', center=True).T
  inner = slice(4, 36)  # windows that reach nobody's padding
  # float32 transforms of values whose sum is of the order of sqrt(window).
  np.testing.assert_allclose(ours[inner], reference[inner], atol=1e-6 * window)


@pytest.mark.parametrize(('window', 'hop'), SIZES)
def test_stft_pads_zeros_at_both_ends(window, hop):
  x = noise(hop * 10)
  pad = (window - hop) // 2
  padded = np.concatenate([np.zeros(pad), x, np.zeros(window - hop - pad)])
  taper = scipy.signal.get_window('hann', window)
  expected = [np.fft.rfft(padded[i * hop : i * hop + window] * taper) for i in range(10)]
  # float32 transforms of values whose sum is of the order of sqrt(window).
  np.testing.assert_allclose(spectrogram.stft(x, window, hop), expected, atol=1e-6 * window)


@pytest.mark.parametrize(('window', 'hop'), SIZES)
@pytest.mark.parametrize('frames', [1, 2, 25])
def test_istft_inverts_stft(window, hop, frames):
  x = noise(hop * frames, (2, 3))
  back = spectrogram.istft(spectrogram.stft(x, window, hop), window, hop)
  # float32; at the ends a sample is divided by as little as a quarter of a window's square.
  np.testing.assert_allclose(back, x, atol=1e-5)


def test_istft_is_the_least_squares_inverse_of_librosa_for_a_spectrum_that_no_signal_has():
  window, hop = 512, 128
  rng = np.random.default_rng(0)
  spectrum = rng.standard_normal((30, 257)) + 1j * rng.standard_normal((30, 257))
  ours = np.asarray(spectrogram.istft(jnp.asarray(spectrum, jnp.complex64), window, hop))
  # librosa's signal begins at the centre of its frame 0; ours half a hop before that of frame 0.
  reference = librosa.istft(spectrum.T, n_fft=window, hop_length=hop, window='hann', center=True)
  inner = slice(4 * hop, 24 * hop)
  # float32 transforms.
  np.testing.assert_allclose(ours[hop // 2 :][inner], reference[inner], atol=1e-5)


def test_the_filters_are_slaney_mel_filters():
  filters = spectrogram.mel_filters(RATE, 1024, 80)
  assert filters.shape == (513, 80)
  # The area of a Slaney filter is one: its sum is the number of bins a Hz, as far as bins sample a triangle.
  widest = filters[:, -20:].sum(0)
  np.testing.assert_allclose(widest, 1024 / RATE, rtol=0.05)
  centres = librosa.mel_frequencies(82, fmax=RATE / 2)[1:-1]
  # A filter peaks within one bin (15.6 Hz) of its centre.
  assert np.abs(filters.argmax(0) * RATE / 1024 - centres).max() <= RATE / 1024


def test_mel_is_that_of_librosa_for_magnitudes():
  x = noise(256 * 40)
  ours = np.asarray(spectrogram.mel(x, RATE, 1024, 256, 80))
  reference = librosa.feature.melspectrogram(
    y=x[128:], sr=RATE, n_fft=1024, hop_length=256, n_mels=80, power=1.0, center=True
  ).T
  # float32 sums of 513 bins.
  np.testing.assert_allclose(ours[4:36], reference[4:36], rtol=1e-4, atol=1e-6)
