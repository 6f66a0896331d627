"""Integrated loudness after ITU-R BS.1770-4, and the gain that reaches a target."""

import functools
import math
import warnings

import numpy as np

MUSIC = -16.0  # LUFS, what streaming services play music at
# dB. Music that is mixed softly needs less; what needs more is a noise floor, which is not to be made music.
GREATEST_GAIN = 24.0

_ABSOLUTE_GATE = -70.0  # LUFS
_RELATIVE_GATE = -10.0  # LU below the mean of the blocks over the absolute gate


def integrated_loudness(audio: np.ndarray, sample_rate: int) -> float:
  """Measures gated loudness in LUFS.

  Args:
    audio: float [samples, channels], one or two channels, full scale 1.
    sample_rate: in Hz.

  Returns:
    LUFS; -inf for silence and for what stays under the absolute gate of -70 LUFS. Audio shorter than
    the 400 ms of a block is measured as one block.

  Raises:
    ValueError: `audio` is not [samples, 1 or 2].
  """
  if audio.ndim != 2 or audio.shape[1] not in (1, 2):
    raise ValueError(f'Loudness is of [samples, 1 or 2 channels], not of shape {audio.shape}.')
  if audio.shape[0] == 0:
    return -math.inf
  weighted = _weighted(np.pad(audio, ((len(_response(sample_rate)) - 1, 0), (0, 0))), sample_rate)
  energy = np.concatenate([[0.0], np.cumsum(np.sum(np.square(weighted), axis=1))])
  block = min(round(0.4 * sample_rate), audio.shape[0])
  starts = np.round(np.arange(0, audio.shape[0] - block + 1, 0.1 * sample_rate)).astype(int)
  starts = starts[starts + block <= audio.shape[0]]
  return gated(np.maximum(energy[starts + block] - energy[starts], 0) / block)


def gated(power: np.ndarray) -> float:
  """LUFS of blocks of 400 ms by their K-weighted power, channels added; -inf where all are too quiet."""
  power = power[power > _power(_ABSOLUTE_GATE)]
  if not power.size:
    return -math.inf
  power = power[power > _power(_loudness(power.mean()) + _RELATIVE_GATE)]
  return _loudness(power.mean())


def of_tenths(energies: np.ndarray) -> float:
  """Integrated loudness in LUFS by what `Meter` measured: blocks are four tenths of a second that overlap."""
  if len(energies) < 4:
    return gated(energies[:1])
  return gated(np.convolve(energies.astype(np.float64), np.full(4, 0.25), 'valid'))


class Meter:
  """K-weighted power of sound that comes in pieces, of each tenth of a second, channels added.

  Args:
    sample_rate: in Hz, a multiple of 10.
    channels: of the pieces; all but the last hold whole tenths of a second.
  """

  def __init__(self, sample_rate: int, channels: int):
    self._rate, self._step = sample_rate, sample_rate // 10
    self._before = np.zeros((len(_response(sample_rate)) - 1, channels))

  def __call__(self, audio: np.ndarray) -> np.ndarray:
    """float32 [tenths] of the next samples [samples, channels]; a rest below a tenth is left out."""
    audio = np.concatenate([self._before, audio])
    weighted, self._before = _weighted(audio, self._rate), audio[len(audio) - len(self._before) :]
    whole = weighted[: len(weighted) // self._step * self._step]
    tenths = np.square(whole).reshape(-1, self._step, weighted.shape[1])
    return tenths.mean(1).sum(1).astype(np.float32)


def normalize_loudness(
  audio: np.ndarray, sample_rate: int, target_lufs: float = MUSIC, peak_dbfs: float = -1.0
) -> np.ndarray:
  """Scales audio to a loudness, or as near to it as the peak and `GREATEST_GAIN` allow.

  Warns where the audio is too quiet to be brought there.

  Args:
    audio: float [samples, channels], one or two channels.
    sample_rate: in Hz.
    target_lufs: the integrated loudness to reach, in LUFS.
    peak_dbfs: the largest sample magnitude to leave, in dB below full scale 1; no limiter is applied.

  Returns:
    the scaled audio in the same dtype; silence comes back unchanged.

  Raises:
    ValueError: as `integrated_loudness` does.
  """
  loudness = integrated_loudness(audio, sample_rate)
  if loudness == -math.inf:
    return audio
  wanted = target_lufs - loudness
  if wanted > GREATEST_GAIN:
    warnings.warn(
      f'the sound is at {loudness:.1f} LUFS, so quiet that it is made louder by {GREATEST_GAIN:g} dB only '
      f'instead of to {target_lufs:g} LUFS',
      stacklevel=2,
    )
  gain = 10 ** (min(wanted, GREATEST_GAIN) / 20)
  gain = min(gain, 10 ** (peak_dbfs / 20) / float(np.max(np.abs(audio))))
  return (audio * gain).astype(audio.dtype)


def _loudness(power: float) -> float:
  return float(-0.691 + 10 * np.log10(power))


def _power(loudness: float) -> float:
  return 10 ** ((loudness + 0.691) / 10)


@functools.lru_cache(maxsize=8)
def _response(sample_rate: int) -> np.ndarray:
  """K-weighting's impulse response [n], float64: it has died away, by 1e-14, in less than half of its length.

  As a convolution the filter needs NumPy alone: `scipy.signal` takes half a second to import, which is a
  tenth of all that it takes to make ten seconds of music.
  """
  size = 2 ** math.ceil(math.log2(0.3 * sample_rate))
  delay = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)[:, None] ** np.arange(3)
  sections = _k_weighting(sample_rate)
  return np.fft.irfft(np.prod((delay @ sections[:, :3].T) / (delay @ sections[:, 3:].T), axis=1), size)


def _weighted(audio: np.ndarray, sample_rate: int) -> np.ndarray:
  """K-weighted sound [n, channels] of [n + length of the response - 1, channels], by overlap and save."""
  response = _response(sample_rate)
  before, size = len(response) - 1, 4 * len(response)
  transfer, step = np.fft.rfft(response, size)[:, None], size - before
  found = np.empty((len(audio) - before, audio.shape[1]))
  for start in range(0, len(found), step):
    part = np.fft.irfft(
      np.fft.rfft(audio[start : start + size].astype(np.float64), size, 0) * transfer, size, 0
    )
    found[start : start + step] = part[before:][: len(found) - start]
  return found


def _k_weighting(sample_rate: int) -> np.ndarray:
  """Returns the two biquads of K-weighting, [2, 6] second-order sections, for any rate in Hz.

  The standard tabulates them at 48 kHz only. These are the analogue filters behind the table (a shelf
  of +4 dB above 1.7 kHz, a high pass at 38 Hz), brought to the rate by the bilinear transform.
  """
  gain, q = 10 ** (3.999843853973347 / 20), 0.7071752369554196
  k = math.tan(math.pi * 1681.974450955533 / sample_rate)
  middle = gain**0.4996667741545416
  norm = 1 + k / q + k * k
  shelf = [gain + middle * k / q + k * k, 2 * (k * k - gain), gain - middle * k / q + k * k]
  shelf += [norm, 2 * (k * k - 1), 1 - k / q + k * k]

  f, q = 38.13547087602444, 0.5003270373238773
  k, k_48 = (math.tan(math.pi * f / each) for each in (sample_rate, 48000))
  norm = 1 + k / q + k * k
  # The table's numerator is 1, -2, 1 over a normalised denominator, which leaves a pass band gain a
  # little over one; it is kept the same at every rate.
  high = 1 + k_48 / q + k_48 * k_48
  pass_high = [high, -2 * high, high, norm, 2 * (k * k - 1), 1 - k / q + k * k]
  sections = np.array([shelf, pass_high])
  return sections / sections[:, 3:4]
