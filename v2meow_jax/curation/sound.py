"""What is measured of sound, a minute at a time so that a file of ten hours takes no more memory."""

import math

import msgspec
import numpy as np

from v2meow_jax import errors
from v2meow_jax.curation import landmarks
from v2meow_jax.curation.speech import WINDOW, SpeechDetector
from v2meow_jax.data.spans import Span
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import loudness

RATE = landmarks.RATE  # Hz: loudness is of what lies below 8 kHz
BLOCK = 60  # seconds at a time, a multiple of all steps
ENERGY_RATE = 10  # Hz, of `Sound.energies`
FRAME_RATE = landmarks.RATE / landmarks.HOP  # Hz, of `Sound.frames`
SPEECH_RATE = RATE / WINDOW  # Hz, of `Speech.probabilities`


class Sound(msgspec.Struct):
  """Of a span: arrays as bytes.

  Attributes:
    energies: float32, K-weighted mean square of each tenth of a second, channels added (BS.1770).
    powers: float32, mean square of the samples of each tenth of a second.
    hashes, frames: uint32 and int32, landmarks and when they are.
  """

  energies: bytes
  powers: bytes
  hashes: bytes
  frames: bytes


class Speech(msgspec.Struct):
  """Of a span: `probabilities`, uint8 of 255, of speech in windows of 32 ms."""

  probabilities: bytes


def measure(span: Span, sound: bool, speech: bool) -> tuple[Sound | None, Speech | None]:
  """Measures a span's sound.

  Raises:
    errors.MediaError: it cannot be read.
    errors.ConfigError: the weights for speech are missing.
  """
  detector = SpeechDetector() if speech else None
  meter = loudness.Meter(RATE, 2)
  energies, powers, hashes, frames, spoken = [], [], [], [], []
  assert span.audio is not None
  for number in range(math.ceil(span.seconds / BLOCK)):
    begin = number * BLOCK
    length = min(BLOCK, span.seconds - begin)
    try:
      audio, _ = audio_files.load_audio(span.audio, RATE, 2, span.start + begin, length)
    except errors.MediaEnded:
      break  # where the header says more than there is
    mono = audio.mean(1)
    if sound:
      energies.append(meter(audio))
      powers.append(_means(np.square(audio).mean(1)))
      found, when = landmarks.landmarks(mono)
      hashes.append(found)
      frames.append(when + round(begin * FRAME_RATE))
    if detector is not None:
      spoken.append(np.round(255 * detector(mono)).astype(np.uint8))
  if sound and not energies:
    raise errors.MediaError(f'{span.audio}: there is no sound in it from {span.start:g} s on')
  return (
    Sound(*(np.concatenate(part).tobytes() for part in (energies, powers, hashes, frames)))
    if sound
    else None,
    Speech(np.concatenate([*spoken, np.zeros(0, np.uint8)]).tobytes()) if speech else None,
  )


def _means(squares: np.ndarray) -> np.ndarray:
  """Means of tenths of a second; the last one may be shorter."""
  step = RATE // ENERGY_RATE
  sums = np.add.reduceat(squares, np.arange(0, len(squares), step))
  counts = np.full(len(sums), step)
  counts[-1] = len(squares) - step * (len(sums) - 1)
  return (sums / counts).astype(np.float32)
