"""Music as curves over time: loudness, attacks, timbre, harmony and sections, each relative to the track.

What the visualizer draws and what `audio/pulse` counts. Products run in one fixed order, so that the same
audio gives the same curves, bit for bit.
"""

import dataclasses
import zlib

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.sparse

from v2meow_jax import errors

MIN_SECTION, MAX_SECTION = 4.0, 30.0  # seconds between cuts
_SNAP = 0.35  # seconds a boundary may move to meet a strong onset
_STEP_RATE = 4  # Hz at which sections are searched
_SILENCE = 1e-5  # RMS under which a whole track counts as silent
_TAU = 2 * np.pi


@dataclasses.dataclass(frozen=True)
class Analysis:
  """Curves of one track, each [frames]; frame i stands for the time from i to i + 1 over frame_rate."""

  frame_rate: float
  energy: np.ndarray  # float32 in [0, 1]: loudness in dB, over the track's own range
  onset: np.ndarray  # float32 in [0, 1]: strength of the strongest attack in the frame
  timbre: np.ndarray  # float32 in [0, 1]: spectral centroid on the mel scale, dark to bright
  hue: np.ndarray  # float32 in [0, 1): direction of the chroma on the circle of fifths
  clarity: np.ndarray  # float32 in [0, 1]: how far the chroma points one way; 0 for noise
  cuts: np.ndarray  # bool: True on the first frame of every section but the first
  fingerprint: int  # CRC-32 of the audio, so that two tracks differ under one seed


def analyse(audio: np.ndarray, sample_rate: int, frame_rate: float = 12) -> Analysis:
  """Measures what the video is to follow in mono audio, float32 [samples], for frames at frame_rate Hz.

  Raises errors.InputError if the audio is empty, not mono, not finite or at under 8000 Hz.
  """
  audio = np.ascontiguousarray(audio, np.float32)
  if audio.ndim != 1 or not len(audio) or sample_rate < 8000 or not np.isfinite(audio).all():
    need = '[samples], not empty, finite and at 8000 Hz or more'
    raise errors.InputError(f'audio to analyse must be {need}, but is {audio.shape} at {sample_rate} Hz.')
  frames = max(1, round(len(audio) / sample_rate * frame_rate))

  # Short windows place attacks; chroma needs long ones, to tell the semitones of the low octaves apart.
  n_fft = 2 ** round(np.log2(sample_rate * 0.046))
  hop, slow_hop = n_fft // 2, n_fft * 2
  import librosa.filters  # takes seconds to import

  mel_bands = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=40, fmax=min(11000, sample_rate / 2))
  mel = _spectra(audio, n_fft, hop, scipy.sparse.csr_array(mel_bands))
  chroma = _spectra(audio, n_fft * 4, slow_hop, _chroma_bands(sample_rate, n_fft * 4))
  log_mel = np.log10(np.maximum(mel, max(mel.max() * 1e-3, 1e-9)))

  def at_frames(curve: np.ndarray, hop: int, reduce=np.add, rate: float = frame_rate, count: int = frames):
    last = curve.shape[-1]
    starts = np.ceil(np.arange(count) * sample_rate / rate / hop).astype(int).clip(0, last - 1)
    total = reduce.reduceat(curve, starts, axis=-1)
    return total if reduce is np.maximum else total / np.diff(starts, append=last).clip(1)

  energy = _energy(audio, sample_rate, frame_rate, frames)
  # An attack first shows in a window that ends just after it, so its flux is filed one hop later.
  flux = np.maximum(np.diff(log_mel, axis=1, prepend=log_mel[:, :1]), 0).mean(0)
  flux = np.concatenate([[0], np.maximum(flux - scipy.ndimage.uniform_filter1d(flux, 43), 0)])
  onset = at_frames(flux, hop, np.maximum)
  onset = np.clip(onset / max(np.percentile(onset, 98), 0.05), 0, 1)

  centroid = (np.arange(40) / 40) @ mel / np.maximum(mel.sum(0), 1e-9)
  centroid = scipy.ndimage.gaussian_filter1d(at_frames(centroid, hop), frame_rate * 0.15)
  low, high = np.percentile(centroid, [3, 97])
  middle, span = (low + high) / 2, max(high - low, 0.15)  # a steady timbre stays in the middle
  timbre = np.clip((centroid - middle) / span + 0.5, 0, 1)

  fifths = np.exp(1j * _TAU * (np.arange(12) * 7 % 12) / 12)
  arrows = at_frames(np.stack([fifths @ chroma, chroma.sum(0)]), slow_hop)
  arrow, total = scipy.ndimage.gaussian_filter1d(arrows, frame_rate * 0.7, axis=1)
  clarity = np.clip(2 * np.abs(arrow) / np.maximum(total.real, 1e-6), 0, 1)
  hue = np.angle(arrow) / _TAU % 1

  steps = max(1, int(len(audio) / sample_rate * _STEP_RATE))
  mel_steps = at_frames(log_mel, hop, rate=_STEP_RATE, count=steps)
  chroma_steps = at_frames(chroma / np.maximum(chroma.sum(0), 1e-6), slow_hop, rate=_STEP_RATE, count=steps)
  cuts = _cuts(_novelty(mel_steps, chroma_steps), onset, frame_rate)
  curves = [np.asarray(curve, np.float32) for curve in (energy, onset, timbre, hue, clarity)]
  curves[3] %= 1  # rounding to float32 may have made a hue 1
  return Analysis(frame_rate, *curves, cuts=cuts, fingerprint=zlib.crc32(audio.data))


def _spectra(audio: np.ndarray, n_fft: int, hop: int, bands: scipy.sparse.csr_array) -> np.ndarray:
  """Band magnitudes [bands, 1 + samples // hop] of centred Hann windows, in blocks to bound memory."""
  # Sparse products run in one fixed order, so the result does not hang on the number of BLAS threads.
  padded = np.pad(audio, n_fft // 2)
  windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
  hann = (0.5 - 0.5 * np.cos(_TAU * np.arange(n_fft) / n_fft)).astype(np.float32)
  across = bands.astype(np.float32).T.tocsc()
  block = max(1, 2**20 // n_fft)
  parts = []
  for start in range(0, len(windows), block):
    bins = np.asarray(scipy.fft.rfft(windows[start : start + block] * hann, axis=1))
    parts.append(np.abs(bins)[:, : across.shape[0]] @ across)
  return np.concatenate(parts).T


def _chroma_bands(sample_rate: int, n_fft: int) -> scipy.sparse.csr_array:
  """[12, bins]: every bin from 65 to 2100 Hz to its pitch class, less the farther it is out of tune."""
  frequency = np.arange(1, int(2100 * n_fft / sample_rate)) * sample_rate / n_fft
  pitch = 12 * np.log2(frequency / 440) + 69
  nearest = np.round(pitch)
  weight = np.exp(-(((pitch - nearest) / 0.3) ** 2)) * (frequency > 65)
  place = (nearest.astype(int) % 12, np.arange(1, len(frequency) + 1))
  return scipy.sparse.csr_array((weight, place), shape=(12, len(frequency) + 1))


def _energy(audio: np.ndarray, sample_rate: int, frame_rate: float, frames: int) -> np.ndarray:
  """Loudness [frames] in [0, 1]: dB over the track's own range, of at least 9 and at most 30 dB."""
  starts = (np.arange(frames) * sample_rate // frame_rate).astype(int)
  power = np.add.reduceat(np.square(audio), starts, dtype=np.float64) / np.diff(starts, append=len(audio))
  if power.max() < _SILENCE**2:
    return np.zeros(frames)
  decibels = 10 * np.log10(np.maximum(power, power.max() * 1e-5))
  decibels = scipy.ndimage.gaussian_filter1d(decibels, frame_rate * 0.05)
  low, high = np.percentile(decibels, [10, 97])
  low = np.clip(low, high - 30, high - 9)
  return np.clip((decibels - low) / (high - low), 0, 1)


def _novelty(mel: np.ndarray, chroma: np.ndarray) -> np.ndarray:
  """How unlike the seconds before and after each step are, [steps], from [bands, steps] means.

  This is the checkerboard kernel run down the diagonal of the self-similarity matrix. With dot products
  for similarity and a Gaussian taper the kernel is an outer product, so the double sum over the matrix
  is the squared length of one signed sum over the features, and the matrix need not be built.
  """

  features = []
  for means, weight in ((mel, 1.0), (chroma, 0.7)):
    means = means - means.mean(1, keepdims=True)
    features.append(means * weight / max(np.sqrt((means**2).sum(0).mean()), 1e-6))
  reach = 6 * _STEP_RATE
  taper = np.exp(-(((np.arange(reach) + 0.5) / (reach / 2)) ** 2))
  kernel = np.concatenate([-taper[::-1], taper])
  signed = scipy.ndimage.correlate1d(np.concatenate(features), kernel, axis=1, mode='nearest')
  return (signed**2).sum(0)


def _cuts(novelty: np.ndarray, onset: np.ndarray, frame_rate: float) -> np.ndarray:
  """Section boundaries as bool [frames]: peaks of novelty, moved to a strong onset close by."""
  # Snapping moves each end of a section, so the gaps chosen here leave room for it.
  least = int(np.ceil((MIN_SECTION + 2 * _SNAP) * _STEP_RATE))
  most = int((MAX_SECTION - 2 * _SNAP) * _STEP_RATE)
  peak = novelty == scipy.ndimage.maximum_filter1d(novelty, 3)
  peak &= novelty > novelty.mean() + 0.3 * novelty.std()
  chosen = [0, len(novelty)]
  for step in sorted(np.flatnonzero(peak).tolist(), key=lambda step: -novelty[step]):
    if min(abs(step - other) for other in chosen) >= least:
      chosen.append(step)
  chosen.sort()
  while max(gaps := np.diff(chosen)) > most:  # a long stretch is split where it changes most
    start = chosen[i := int(np.argmax(gaps))] + least
    chosen.insert(i + 1, start + int(np.argmax(novelty[start : chosen[i + 1] - least])))
  cuts = np.zeros(len(onset), bool)
  reach = int(_SNAP * frame_rate)
  for step in chosen[1:-1]:
    frame = round(step * frame_rate / _STEP_RATE)
    near = np.arange(max(1, frame - reach), min(len(onset), frame + reach + 1))
    worth = onset[near] - 0.5 * np.abs(near - frame) / max(reach, 1)
    cuts[near[np.argmax(worth)]] = True
  return cuts
