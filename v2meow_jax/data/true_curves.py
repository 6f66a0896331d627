"""What the visualizer draws, from what is true of a rendered piece instead of from its sound."""

import zlib

import numpy as np
import scipy.ndimage

from v2meow_jax.data.performances import Truth
from v2meow_jax.media.curves import Analysis

_LOWEST, _HIGHEST = 36, 84  # mean pitches that are quite dark and quite bright


def analysis_of(truth: Truth, frame_rate: float) -> Analysis:
  """The curves of `media.curves`, to the frame: attacks where they are struck, cuts where sections begin."""
  frames = max(1, round(truth.duration * frame_rate))
  places = (np.arange(frames) + 0.5) / frame_rate * truth.rate
  steps = len(truth.energy)
  middles = np.arange(steps) + 0.5
  energy = np.interp(places, middles, truth.energy)
  onset, weight, height = np.zeros(frames), np.zeros(frames), np.zeros(frames)
  for time, strength, pitch in truth.onsets:
    frame = min(frames - 1, int(time * frame_rate))
    onset[frame] = max(onset[frame], strength)
    weight[frame] += strength
    height[frame] += strength * pitch
  onset = np.clip(onset / max(np.percentile(onset[onset > 0], 95), 0.05), 0, 1) if onset.any() else onset
  # Brightness is the height of what was struck in the last seconds and its energy, as of real instruments.
  smooth = [scipy.ndimage.gaussian_filter1d(curve, frame_rate * 0.5) for curve in (height, weight)]
  pitch = smooth[0] / np.maximum(smooth[1], 1e-6)
  bright = np.clip((pitch - _LOWEST) / (_HIGHEST - _LOWEST), 0, 1)
  timbre = np.clip(0.75 * bright + 0.35 * (energy - 0.5) + 0.1, 0, 1)
  fifths = np.exp(2j * np.pi * (np.arange(12) * 7 % 12) / 12)
  classes = np.asarray(truth.pitches).reshape(steps, 12)
  arrows, sums = classes @ fifths, classes.sum(1)
  arrows, sums = (scipy.ndimage.gaussian_filter1d(curve, truth.rate * 0.7) for curve in (arrows, sums))
  real, imaginary, total = (np.interp(places, middles, c) for c in (np.real(arrows), np.imag(arrows), sums))
  arrow = real + 1j * imaginary
  cuts = np.zeros(frames, bool)
  for time, _ in truth.sections[1:]:
    cuts[min(frames - 1, int(time * frame_rate))] = True
  cuts[0] = False
  curves = (
    energy,
    onset,
    timbre,
    np.angle(arrow) / (2 * np.pi) % 1,
    np.abs(arrow) * 2 / np.maximum(total, 1e-6),
  )
  energy, onset, timbre, hue, clarity = (np.asarray(curve, np.float32) for curve in curves)
  mark = zlib.crc32(truth.id.encode())
  return Analysis(frame_rate, energy, onset, timbre, hue % 1, np.clip(clarity, 0, 1), cuts, mark)
