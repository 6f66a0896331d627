"""What is heard in a piece without any trained network: figures, curves, beats and vectors of its windows."""

import dataclasses
import functools
import itertools

import numpy as np
import soxr
from jaxtyping import Bool, Float

from v2meow_jax.evaluation import stability
from v2meow_jax.media import loudness

RATE = 16000  # Hz, at which everything but clipping and bandwidth is measured
HOP = 256  # samples: 62.5 frames a second
WINDOW = 1024
CURVE_RATE = 4  # Hz, of curves; that of `video/motion`
EMBEDDING_SECONDS = 5.0
BANDS = 24  # mel bands of the vectors
SILENT = 1e-3  # RMS, -60 dB of full scale
LEVEL = -23.0  # LUFS (EBU R 128) that sounds are brought to: what is generated is made louder than music lies
VERSION = 4  # of what is kept on disk


@dataclasses.dataclass(frozen=True)
class Heard:
  """A piece as metrics see it.

  Attributes:
    figures: by name; see `FIGURES`.
    curves: at `CURVE_RATE` Hz, by name: `energy` (dB) and `brightness` (log2 of the centroid in Hz).
    beats: times in seconds.
    chroma: mean energy of the twelve pitch classes, of sum 1; C first.
    vectors: [windows, dimensions], one a `EMBEDDING_SECONDS`.
    seconds: of the piece.
  """

  figures: dict[str, float]
  curves: dict[str, np.ndarray]
  beats: np.ndarray
  chroma: np.ndarray
  vectors: Float[np.ndarray, 'windows dimensions']
  seconds: float


# Name -> (unit, what it says).
FIGURES = {
  'loudness': ('LUFS', 'integrated loudness (ITU-R BS.1770-4)'),
  'tonality': ('dB', 'how far the strongest twentieth of the spectrum stands above its median'),
  'pulse': ('', 'greatest autocorrelation of spectral flux at 0.25 to 1.5 s'),
  'tempo': ('bpm', 'the beat tracker'),
  'key_stability': ('', "agreement of 4 s windows with the key of the whole, by MIREX's weights"),
  'tempo_stability': ('share', "of 4 s windows whose beat is as long as the whole's, or double or half"),
  'repetition': ('', 'how like each 2 s are to the most alike other 2 s'),
  'silence': ('share', 'of tenths of a second below -60 dB'),
  'clipping': ('share', 'of samples in runs of at least three at full scale'),
  'bandwidth': ('Hz', 'below which 99% of the power lies'),
}


def hear(audio: Float[np.ndarray, 'samples channels'], sample_rate: int) -> Heard:
  """Measures a piece.

  Args:
    audio: at least half a second, finite.
    sample_rate: its own, in Hz: loudness, clipping, bandwidth and silence are measured as the sound is, all
      else at `LEVEL`.

  Raises:
    ValueError: too short, or not finite.
  """
  if len(audio) < sample_rate // 2 or not np.isfinite(audio).all():
    raise ValueError(f'{len(audio) / sample_rate:.2f} s of audio, or values that are not finite')
  mono = audio.mean(1).astype(np.float32)
  # Stereo is measured as its mean, but a sum of channels can neither clip nor not.
  figures = {
    'loudness': max(-100.0, loudness.integrated_loudness(audio[:, :2], sample_rate)),
    'clipping': clipping(audio),
    'bandwidth': bandwidth(mono, sample_rate),
  }
  sound = mono if sample_rate == RATE else soxr.resample(mono, sample_rate, RATE, 'HQ')
  figures['silence'] = silence(sound, RATE)
  sound = sound * gain(mono, sample_rate)
  power = spectrum(sound)
  flux = spectral_flux(power)
  beats, tempo = track_beats(flux)
  figures |= {
    'tonality': tonality(power),
    'pulse': pulse(flux, RATE / HOP),
    'tempo': tempo,
  }
  chroma = chroma_of(power)
  sounds = sounding(power)
  figures['key_stability'] = stability.key(chroma, sounds, RATE / HOP)
  figures['tempo_stability'] = stability.tempo(flux, sounds, RATE / HOP)
  vectors, rows = vectors_of(power, chroma, flux)
  figures['repetition'] = repetition(rows)
  mean = chroma.sum(0)
  return Heard(
    figures, curves_of(sound, power), beats, mean / max(mean.sum(), 1e-12), vectors, len(mono) / sample_rate
  )


def gain(mono: Float[np.ndarray, ' samples'], sample_rate: int) -> np.float32:
  """What brings a sound to `LEVEL`, whatever its peaks; 1 for silence."""
  found = loudness.integrated_loudness(mono[:, None], sample_rate)
  return np.float32(10 ** ((LEVEL - found) / 20) if found > -70 else 1.0)


def spectrum(sound: Float[np.ndarray, ' samples']) -> Float[np.ndarray, 'frames bins']:
  """Power of Hann-windowed frames, float32."""
  padded = np.pad(sound, (WINDOW // 2, WINDOW))
  frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][: -(-len(sound) // HOP)]
  return (np.abs(np.fft.rfft(frames * np.hanning(WINDOW + 1)[:-1].astype(np.float32))) ** 2).astype(
    np.float32
  )


def sounding(power: Float[np.ndarray, 'frames bins']) -> Bool[np.ndarray, ' frames']:
  """Whether a frame's RMS is above `SILENT`."""
  return power.mean(1) > SILENT**2 * 0.375 * WINDOW  # the mean of a Hann window's square


def tonality(power: Float[np.ndarray, 'frames bins']) -> float:
  """Level of a frame's 95th percentile of power above its median, dB; the median over frames that sound.

  The power of white noise is exponentially distributed: 10 log10(ln 20 / ln 2) = 6.4 dB. What has partials
  stands higher, and so does a spectrum that falls steeply.
  """
  heard = power[power.mean(1) > 1e-9 * WINDOW]
  if not len(heard):
    return float('nan')
  high, middle = np.quantile(heard, [0.95, 0.5], axis=1)
  return float(np.median(10 * np.log10((high + 1e-20) / (middle + 1e-20))))


@functools.cache
def _mel() -> np.ndarray:
  import librosa

  return librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=40).T.astype(np.float32)


@functools.cache
def _filters() -> tuple[np.ndarray, np.ndarray]:
  import librosa

  mel = librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=BANDS)
  return mel.T.astype(np.float32), librosa.filters.chroma(sr=RATE, n_fft=WINDOW, tuning=0.0).T.astype(
    np.float32
  )


def spectral_flux(power: Float[np.ndarray, 'frames bins']) -> Float[np.ndarray, ' frames']:
  """Mean rise of 40 log-mel bands from a frame to the next, falls counting nothing; 0 at the first."""
  mel = np.log(power @ _mel() + 1e-6)
  return np.maximum(0, np.diff(mel, axis=0, prepend=mel[:1])).mean(1)


def pulse(flux: Float[np.ndarray, ' frames'], rate: float) -> float:
  """Greatest autocorrelation of centred flux at lags of 0.25 to 1.5 s, 1 for what repeats exactly.

  The sum of products at a lag over that of squares (biased: longer lags weigh a little less).
  """
  found = stability.autocorrelation(flux, rate)[1]
  return float(found.max()) if len(found) else 0.0


def track_beats(flux: Float[np.ndarray, ' frames']) -> tuple[np.ndarray, float]:
  """(times of beats in seconds, tempo in bpm) by dynamic programming (Ellis 2007), as librosa has it."""
  import librosa

  if flux.max() <= 1e-9:
    return np.zeros(0), float('nan')
  tempo, frames = librosa.beat.beat_track(onset_envelope=flux, sr=RATE, hop_length=HOP, trim=False)
  return frames * HOP / RATE, float(np.atleast_1d(tempo)[0])


def silence(sound: Float[np.ndarray, ' samples'], rate: int) -> float:
  """Share of tenths of a second whose RMS is below -60 dB of full scale."""
  block = rate // 10
  blocks = sound[: len(sound) // block * block].reshape(-1, block)
  return float(np.mean(np.sqrt(np.mean(np.square(blocks, dtype=np.float64), 1)) < SILENT))


def clipping(audio: Float[np.ndarray, 'samples channels']) -> float:
  """Share of samples that lie in a run of at least three at full scale, of one sign."""
  count = 0
  for sign in (1, -1):
    full = np.pad(sign * audio >= 32766 / 32768, ((1, 1), (0, 0)))
    for channel in full.T:
      edges = np.flatnonzero(np.diff(channel.astype(np.int8)))
      runs = edges[1::2] - edges[::2]
      count += int(runs[runs >= 3].sum())
  return count / audio.size


def bandwidth(mono: Float[np.ndarray, ' samples'], rate: int) -> float:
  """Frequency below which 99% of the power lies, of all frames together, Hz; NaN for silence."""
  total = np.zeros(2048 // 2 + 1)
  window = np.hanning(2049)[:-1]
  for at in range(0, max(1, len(mono) - 2047), 2048 * 256):
    block = mono[at : at + 2048 * 256]
    block = np.pad(block, (0, max(0, 2048 - len(block))))
    frames = block[: len(block) // 2048 * 2048].reshape(-1, 2048)
    total += np.square(np.abs(np.fft.rfft(frames * window))).sum(0)
  if total.sum() <= 1e-9:
    return float('nan')
  return float(np.searchsorted(np.cumsum(total), 0.99 * total.sum()) * rate / 2048)


def chroma_of(power: Float[np.ndarray, 'frames bins']) -> Float[np.ndarray, 'frames 12']:
  """Energy of the pitch classes, each frame's divided by its greatest."""
  found = power @ _filters()[1]
  return found / (found.max(1, keepdims=True) + 1e-6)


def vectors_of(
  power: np.ndarray, chroma: np.ndarray, flux: np.ndarray
) -> tuple[Float[np.ndarray, 'windows dimensions'], Float[np.ndarray, 'blocks features']]:
  """(a vector a window of `EMBEDDING_SECONDS`, a row a 2 s for `repetition`).

  A vector: mean and deviation over time of 24 log-mel bands, mean chroma, mean and deviation of flux: 62
  dimensions, which say timbre, level, its movement and harmony, and nothing of form or melody.
  """
  mel = np.log(power @ _filters()[0] + 1e-4)

  def summary(seconds: float) -> list[np.ndarray]:
    size = max(1, round(seconds * RATE / HOP))
    starts = range(0, max(1, len(mel) - size + 1), size)
    parts = (slice(start, start + size) for start in starts)
    return [
      np.concatenate(
        [mel[p].mean(0), mel[p].std(0), chroma[p].mean(0), [flux[p].mean(), flux[p].std()]], dtype=np.float32
      )
      for p in parts
    ]

  # Repetition compares the course within two seconds, not only their mean.
  step, size = round(0.25 * RATE / HOP), round(2 * RATE / HOP)
  joined = np.concatenate([mel, 4 * chroma], 1)
  coarse = joined[: len(joined) // step * step].reshape(-1, step, joined.shape[1]).mean(1)
  per = max(1, size // step)
  rows = coarse[: len(coarse) // per * per].reshape(-1, per * joined.shape[1])
  return np.stack(summary(EMBEDDING_SECONDS)), rows


def repetition(rows: Float[np.ndarray, 'blocks features']) -> float:
  """Mean over blocks of the greatest correlation with another block; NaN for fewer than two.

  Rows are centred by the piece's mean, so that a timbre held throughout is not repetition by itself.
  """
  if len(rows) < 2:
    return float('nan')
  centred = rows - rows.mean(0)
  norms = np.linalg.norm(centred, axis=1, keepdims=True)
  if norms.max() < 1e-3:
    return 1.0  # nothing ever changes
  unit = centred / np.maximum(norms, 1e-9)
  alike = unit @ unit.T
  np.fill_diagonal(alike, -1)
  return float(alike.max(1).mean())


def curves_of(sound: np.ndarray, power: np.ndarray) -> dict[str, np.ndarray]:
  """Energy in dB and brightness (log2 of the spectral centroid in Hz) at `CURVE_RATE` Hz."""
  block = RATE // CURVE_RATE
  count = max(1, len(sound) // block)
  blocks = np.pad(sound, (0, max(0, block - len(sound))))[: count * block].reshape(count, block)
  energy = 10 * np.log10(np.mean(np.square(blocks, dtype=np.float64), 1) + 1e-8)
  frequencies = np.arange(power.shape[1]) * RATE / WINDOW
  edges = np.round(np.arange(count + 1) * block / HOP).astype(int)
  summed = np.stack([power[a : max(b, a + 1)].sum(0) for a, b in itertools.pairwise(edges)])
  centroid = (summed @ frequencies + 1e-6) / (summed.sum(1) + 1e-6)
  return {
    'energy': energy.astype(np.float32),
    'brightness': np.log2(np.maximum(centroid, 20)).astype(np.float32),
  }
