import jax
import librosa
import numpy as np
import pytest

from v2meow_jax.codec import losses

RATE = 16000
WINDOWS = (512, 1024)
multi_scale_mel = jax.jit(lambda *args: losses.multi_scale_mel(*args).mean(), static_argnums=2)
log_mel_distance = jax.jit(losses.log_mel_distance, static_argnums=2)
spectral_errors = jax.jit(losses.spectral, static_argnums=2)
si_sdr = jax.jit(losses.si_sdr)


def noise(seed, samples=4096, scale=0.1):
  return (scale * np.random.default_rng(seed).standard_normal((2, samples))).astype(np.float32)


def test_losses_of_equal_signals_are_their_floors():
  x = noise(0)
  # The norm's floor of 1e-6 under the root, times alpha = sqrt(window / 2), averaged over the scales.
  floor = np.mean([1e-3 * np.sqrt(2.0**p / 2) for p in range(6, 12)])
  assert multi_scale_mel(x, x, RATE) == pytest.approx(floor, rel=1e-4)  # float32
  assert log_mel_distance(x, x, RATE) == 0
  convergence, logarithms, complex_error = spectral_errors(x, x, WINDOWS)
  assert 0 < convergence < 1e-4 and 0 < complex_error < 1e-4 and logarithms < 1e-6


def test_multi_scale_mel_is_the_sum_that_its_description_states():
  x, y = noise(0), noise(1, scale=0.03)
  total = 0.0
  for window in (64, 128, 256, 512, 1024, 2048):
    with np.testing.suppress_warnings() as quiet:
      quiet.filter(UserWarning)  # empty filters of the shortest windows
      filters = librosa.filters.mel(sr=RATE, n_fft=window, n_mels=64)
    hop = window // 4
    pad = (window - hop) // 2
    mels = []
    for signal in (x, y):
      padded = np.pad(signal, ((0, 0), (pad, window - hop - pad))).astype(np.float64)
      spectrum = librosa.stft(padded, n_fft=window, hop_length=hop, center=False)
      mels.append(np.moveaxis(filters @ np.abs(spectrum), 1, 2))
    log = np.log(mels[0] + 1e-3) - np.log(mels[1] + 1e-3)
    # The paper's norms of a frame: L1 of magnitudes, L2 of logarithms.
    total += np.linalg.norm(mels[0] - mels[1], 1, -1).mean()
    total += np.sqrt(window / 2) * np.linalg.norm(log, 2, -1).mean()
  # float32 transforms under a logarithm with a floor of 1e-3; the floor of the root is below that. One factor
  # for both terms: scales are averaged, norms of 64 bins divided by 8.
  assert multi_scale_mel(x, y, RATE) == pytest.approx(total / 6 / 8, rel=1e-3)


def test_a_scaled_signal_has_the_closed_form_of_all_errors():
  y = noise(0, scale=1.0)
  for gain in (0.0, 0.5, 3.0):
    convergence, logarithms, complex_error = spectral_errors(gain * y, y, WINDOWS)
    # Both are |gain - 1| where phases agree; the floors are far below a thousandth at this level.
    assert convergence == pytest.approx(abs(gain - 1), rel=1e-3)
    assert complex_error == pytest.approx(abs(gain - 1), rel=1e-3)
    # A constant, but for the floor, which a few bins come near.
    assert logarithms == (pytest.approx(abs(np.log(gain)), rel=1e-3) if gain else pytest.approx(9.2, abs=0.5))


def test_logarithms_hear_between_partials_what_convergence_does_not():
  time = np.arange(8192) / RATE
  tone = np.sin(2 * np.pi * 1000 * time)[None].astype(np.float32)
  convergence, logarithms, _ = spectral_errors(tone + noise(3, 8192, 1e-3)[:1], tone, WINDOWS)
  assert convergence < 0.01 and logarithms > 1


def test_a_flipped_sign_is_seen_by_the_complex_term_only():
  y = noise(0, scale=1.0)
  convergence, logarithms, complex_error = spectral_errors(-y, y, WINDOWS)
  assert convergence < 1e-4 and logarithms < 1e-4
  assert complex_error == pytest.approx(2, rel=1e-3)  # |-1 - 1|, less the floors


def test_log_mel_distance_is_that_of_librosa():
  x, y = noise(0, 256 * 40), noise(1, 256 * 40, 0.02)
  y[:, 5000:] *= 1e-7  # below the floor
  mels = []
  for signal in (x, y):
    padded = np.pad(signal, ((0, 0), (384, 384)))
    mels.append(
      librosa.feature.melspectrogram(
        y=padded, sr=RATE, n_fft=1024, hop_length=256, n_mels=80, power=1.0, center=False
      )
    )
  expected = np.abs(np.log(np.maximum(mels[0], 1e-5)) - np.log(np.maximum(mels[1], 1e-5))).mean()
  # float32 transforms: near the floor a value of 1e-5 has rounding of some per mille.
  assert log_mel_distance(x, y, RATE) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('decibels', [-10, 0, 20, 40])
def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_powers(decibels):
  time = np.arange(4000) / 4000
  target = np.sin(2 * np.pi * 50 * time)[None].astype(np.float32)
  error = np.cos(2 * np.pi * 130 * time)[None] * 10 ** (-decibels / 20)  # orthogonal, zero mean, same power
  for gain, shift in ((1.0, 0.0), (0.3, 0.1), (-2.0, -0.5)):
    audio = (gain * (target + error) + shift).astype(np.float32)
    # Whole periods: orthogonal up to float32 sums of 4000.
    assert si_sdr(audio, target)[0] == pytest.approx(decibels, abs=0.02)


def test_gradients_are_finite_at_silence_and_at_equality():
  silence, x = np.zeros((1, 4096), np.float32), noise(0)[:1]
  pairs = [(silence, silence), (silence, x), (x, silence), (x, x)]

  @jax.jit
  @jax.vmap
  def gradients(audio, target):
    mel = jax.grad(multi_scale_mel)(audio, target, RATE)
    each = jax.jacrev(losses.spectral)(audio, target, WINDOWS)
    return mel, *each, losses.si_sdr(audio, target)

  for found in gradients(*(np.stack(side) for side in zip(*pairs, strict=True))):
    assert np.isfinite(found).all()
    assert np.any(found[2])  # sound where there should be silence
