"""Short-time Fourier transforms of framed audio, differentiable, and their inverse."""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float


def hann(window: int) -> np.ndarray:
  """Periodic Hann window, float32."""
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)).astype(np.float32)


def frames_of(audio: Float[Array, '*b samples'], window: int, hop: int) -> Float[Array, '*b frames window']:
  """Overlapping frames; `window` is a multiple of `hop`, and what does not fill a frame is dropped.

  Built from shifted views of whole hops: slices and a concatenation, whose gradient needs no scatter.
  """
  ratio = window // hop
  blocks = audio.shape[-1] // hop
  split = audio[..., : blocks * hop].reshape(*audio.shape[:-1], blocks, hop)
  count = blocks - ratio + 1
  return jnp.concatenate([split[..., i : i + count, :] for i in range(ratio)], -1)


def stft(audio: Float[Array, '*b samples'], window: int, hop: int) -> Complex[Array, '*b frames bins']:
  """Hann-windowed transform of centred frames: zeros of (window - hop) / 2 at both ends.

  A signal of n hops has n frames, frame i centred on (i + 1/2) hops.
  """
  pad = (window - hop) // 2
  padded = jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(pad, window - hop - pad)])
  return jnp.fft.rfft(frames_of(padded, window, hop) * hann(window))


def istft(spectrum: Complex[Array, '*b frames bins'], window: int, hop: int) -> Float[Array, '*b samples']:
  """Inverse of `stft` by weighted overlap-add: frames x hop samples."""
  ratio = window // hop
  frames = jnp.fft.irfft(spectrum, n=window) * hann(window)
  count = frames.shape[-2]
  parts = frames.reshape(*frames.shape[:-1], ratio, hop)
  lead = [(0, 0)] * (frames.ndim - 2)
  shifted = [jnp.pad(parts[..., i, :], [*lead, (i, ratio - 1 - i), (0, 0)]) for i in range(ratio)]
  total = functools.reduce(jnp.add, shifted)
  squared = (hann(window) ** 2).reshape(ratio, hop)
  weight = sum(np.pad(np.tile(squared[i], (count, 1)), [(i, ratio - 1 - i), (0, 0)]) for i in range(ratio))
  audio = (total / np.maximum(weight, 1e-6)).reshape(*frames.shape[:-2], -1)
  pad = (window - hop) // 2
  return audio[..., pad : pad + count * hop]


@functools.cache
def mel_filters(sample_rate: int, window: int, bins: int) -> np.ndarray:
  """Slaney mel filters [window / 2 + 1, bins], float32, from librosa."""
  import librosa

  with np.errstate(all='ignore'):
    import warnings

    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # the shortest windows leave some mel bands empty, as published
      return librosa.filters.mel(sr=sample_rate, n_fft=window, n_mels=bins).T.astype(np.float32)


def mel(
  audio: Float[Array, '*b samples'], sample_rate: int, window: int, hop: int, bins: int
) -> Float[Array, '*b frames bins']:
  """Mel spectrogram of magnitudes."""
  magnitude = jnp.abs(stft(audio, window, hop))
  return magnitude @ mel_filters(sample_rate, window, bins)
