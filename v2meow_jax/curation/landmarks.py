"""Fingerprints of sound that survive coding, gain and another beginning: constellations of spectral peaks.

After A. Wang, "An Industrial-Strength Audio Search Algorithm" (ISMIR 2003). A landmark is three peaks, by
their frequencies and the times between them: pairs, as published, would be the same by chance in large
collections.
"""

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Int, UInt

RATE = 16000  # Hz
HOP = 512  # samples that times are counted in
_FINE = 256  # samples a frame: at 512 what begins half a frame later has other peaks
_BINS = 256  # that are looked at: up to 4 kHz
_WIDTH = (49, 31)  # frames and bins in which a peak is the highest
_AHEAD = 64  # units of time in which the other peaks of a landmark lie
_FAN = 3  # peaks after the first that are paired
_FLOOR = 1e-4  # of the loudest magnitude


def peaks(audio: Float[np.ndarray, ' samples']) -> Int[np.ndarray, 'peaks 2']:
  """(time, bin) of the peaks of a spectrogram of mono sound at `RATE`, in their order."""
  frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (0, 2 * HOP)), 2 * HOP)[::_FINE]
  level = np.abs(np.fft.rfft(frames * np.hanning(2 * HOP).astype(np.float32)))[:, 2 : 2 + _BINS]
  highest = scipy.ndimage.maximum_filter(level, _WIDTH, mode='constant')
  found = np.argwhere((level == highest) & (level > max(level.max() * _FLOOR, 1e-3)))
  return found // [HOP // _FINE, 1]


def landmarks(
  audio: Float[np.ndarray, ' samples'],
) -> tuple[UInt[np.ndarray, ' n'], Int[np.ndarray, ' n']]:
  """Landmarks of mono sound at `RATE`.

  Returns:
    hashes, 32 bits: what the landmark is; when its first peak is, in units of `HOP`.
  """
  found = peaks(audio)
  hashes, times = [], []
  for a in range(1, _FAN):
    for b in range(a + 1, _FAN + 1):
      first, second, third = found[:-b], found[a : len(found) - b + a], found[b:]
      near, far = second[:, 0] - first[:, 0], third[:, 0] - first[:, 0]
      good = (near > 0) & (far > near) & (far < _AHEAD)
      # 8 bits of frequency of the first, 7 of each other one, 5 of each time: neighbours may share a hash.
      value = (
        (first[:, 1] << 24)
        | ((second[:, 1] >> 1) << 17)
        | ((third[:, 1] >> 1) << 10)
        | ((near >> 1) << 5)
        | (far >> 1)
      )
      hashes.append(value[good])
      times.append(first[good, 0])
  return np.concatenate(hashes).astype(np.uint32), np.concatenate(times).astype(np.int32)
