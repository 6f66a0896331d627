"""Reconstruction losses of a codec. Every loss is a mean over frames and bins, and over the scales."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from v2meow_jax.codec import spectrogram

MEL_WINDOWS = (64, 128, 256, 512, 1024, 2048)  # 2^6 .. 2^11, SoundStream, section III-F
BINS = 64  # mel bands, there too


def multi_scale_mel(
  audio: Float[Array, 'batch samples'], target: Float[Array, 'batch samples'], sample_rate: int
) -> Float[Array, ' batch']:
  """L1 of mel magnitudes plus alpha x L2 of their logarithms, 64 bins, hop a quarter of the window.

  SoundStream, equations 4 and 5, with alpha = sqrt(window / 2). The paper sums both norms over the frames of
  all scales; here they are means over frames and scales, and both norms are divided by the root of the number
  of bins, so that the L2 term is a root mean square. The terms weigh against each other as published.
  """
  total = jnp.zeros(audio.shape[0])
  for window in MEL_WINDOWS:
    ours = spectrogram.mel(audio, sample_rate, window, window // 4, BINS)
    theirs = spectrogram.mel(target, sample_rate, window, window // 4, BINS)
    linear = jnp.mean(jnp.sum(jnp.abs(ours - theirs), -1), -1) / np.sqrt(BINS)
    # 1e-3: below the noise of 16-bit audio in these units; the gradient of the norm needs a floor too.
    log = jnp.log(ours + 1e-3) - jnp.log(theirs + 1e-3)
    alpha = jnp.sqrt(window / 2.0)
    total += linear + alpha * jnp.mean(jnp.sqrt(jnp.mean(log**2, -1) + 1e-6), -1)
  return total / len(MEL_WINDOWS)


def spectral(
  audio: Float[Array, 'batch samples'], target: Float[Array, 'batch samples'], windows: tuple[int, ...]
) -> tuple[Array, Array, Array]:
  """Errors of the magnitudes, of their logarithms and of the complex spectrum, averaged over windows.

  Spectral convergence is ||abs(X) - abs(Y)|| / ||Y||, which hears the peaks; the logarithms' mean absolute
  difference hears what lies between them as well (both Arik et al. 2018); the complex term is
  ||X - Y|| / ||Y||: without it nothing holds the phase.
  """
  convergence, logarithms, complex_error = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
  for window in windows:
    ours = spectrogram.stft(audio, window, window // 4)
    theirs = spectrogram.stft(target, window, window // 4)
    # Safe magnitudes: the gradient of abs at zero is undefined.
    magnitude = lambda x: jnp.sqrt(x.real**2 + x.imag**2 + 1e-9)  # noqa: E731
    scale = jnp.sqrt(jnp.sum(theirs.real**2 + theirs.imag**2) + 1e-3)
    convergence += jnp.sqrt(jnp.sum((magnitude(ours) - magnitude(theirs)) ** 2) + 1e-6) / scale
    logarithms += jnp.mean(jnp.abs(jnp.log(magnitude(ours) + 1e-3) - jnp.log(magnitude(theirs) + 1e-3)))
    difference = ours - theirs
    complex_error += jnp.sqrt(jnp.sum(difference.real**2 + difference.imag**2) + 1e-6) / scale
  return convergence / len(windows), logarithms / len(windows), complex_error / len(windows)


def multi_resolution_stft(
  audio: Float[Array, 'batch samples'], target: Float[Array, 'batch samples']
) -> Array:
  """Spectral convergence plus mean absolute difference of natural-logarithm magnitudes.

  Yamamoto et al. 2020, equations 4 to 6, averaged over windows of 512, 1024 and 2048 samples with a hop
  of a quarter; magnitudes below 1e-5 count as that.
  """
  total, windows = jnp.zeros(()), (512, 1024, 2048)
  for window in windows:
    ours = jnp.maximum(jnp.abs(spectrogram.stft(audio, window, window // 4)), 1e-5)
    theirs = jnp.maximum(jnp.abs(spectrogram.stft(target, window, window // 4)), 1e-5)
    total += jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs)
    total += jnp.mean(jnp.abs(jnp.log(ours) - jnp.log(theirs)))
  return total / len(windows)


def log_mel_distance(
  audio: Float[Array, 'batch samples'], target: Float[Array, 'batch samples'], sample_rate: int
) -> Array:
  """Mean absolute difference of natural-logarithm mel spectra: window 1024, hop 256, 80 bins, floor 1e-5.

  The measure that codec papers print as "mel distance" or "Mel L1" (there too without discounting silence).
  """
  ours = spectrogram.mel(audio, sample_rate, 1024, 256, 80)
  theirs = spectrogram.mel(target, sample_rate, 1024, 256, 80)
  return jnp.mean(jnp.abs(jnp.log(jnp.maximum(ours, 1e-5)) - jnp.log(jnp.maximum(theirs, 1e-5))))


def si_sdr(
  audio: Float[Array, 'batch samples'], target: Float[Array, 'batch samples']
) -> Float[Array, ' batch']:
  """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019), both signals centred first."""
  audio = audio - jnp.mean(audio, -1, keepdims=True)
  target = target - jnp.mean(target, -1, keepdims=True)
  scale = jnp.sum(audio * target, -1, keepdims=True) / (jnp.sum(target**2, -1, keepdims=True) + 1e-8)
  signal, noise = scale * target, audio - scale * target
  return 10 * jnp.log10((jnp.sum(signal**2, -1) + 1e-8) / (jnp.sum(noise**2, -1) + 1e-8))
