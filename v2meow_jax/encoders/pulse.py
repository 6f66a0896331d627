"""`audio/pulse`: how loud, how struck and how bright music is from moment to moment, as one token.

The level at which a video and music meet: what a cut or a movement could be answered by, without melody,
harmony or timbre. Each of the three is told relative to the whole track, so that soft and loud pieces have
the same tokens; a file of hours is no track, and is measured half an hour at a time. It stands where V2Meow
has semantic tokens of w2v-BERT, or beside them, and is this project's own: 64 codes, four steps of each of
the three.
"""

import dataclasses
import functools
import math
import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

import gin
from v2meow_jax import description, errors
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry
from v2meow_jax.media import audio
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

if TYPE_CHECKING:
  from v2meow_jax.media.curves import Analysis

STEPS = 4  # of loudness, of onset strength and of brightness
# Attacks are rare and of all strengths: even steps would leave nearly everything in the first.
ONSETS = (0.1, 0.3, 0.6)
EVEN = tuple(n / STEPS for n in range(1, STEPS))


@gin.register
@dataclasses.dataclass(frozen=True)
class PulseEncoder:
  """Steps of the curves of `media.curves`, over the whole file that a clip is of.

  Attributes:
    rate: tokens a second, in Hz.
    sample_rate: of the audio that is measured, in Hz.
    longest: seconds that are measured as one; of a longer file, the section in which the clip begins.
  """

  rate: Fraction = Fraction(25, 2)
  sample_rate: int = 16000
  longest: int = 1800

  needs = 'audio'

  def __post_init__(self):
    object.__setattr__(self, 'rate', Fraction(self.rate))
    if not 0 < self.rate <= 50 or self.sample_rate < 8000 or self.longest < 60:
      raise errors.ConfigError(
        f'pulse: a rate of {self.rate} Hz, audio at {self.sample_rate} Hz, sections of {self.longest} s; at '
        'most 50, and at least 8000 and 60, go'
      )

  @property
  def stream(self) -> Stream:
    """`audio/pulse`."""
    return Stream('audio/pulse', 'tokens', self.rate, 1, STEPS**3)

  @property
  def identity(self) -> dict[str, Any]:
    """The settings."""
    return {'encoder': 'pulse', 'config': description.describe(self)}

  def encode_clip(self, clip: MediaClip) -> Int[np.ndarray, 'n 1']:
    """Tokens of the clip; what is beyond the sound's end is as its last element."""
    first, found = self._in_file(clip) if clip.audio_path else (0, self._of(clip.audio(self.sample_rate)))
    tokens = found[first : first + self.stream.length(clip.duration)]
    if not len(tokens):
      raise errors.MediaError(f'{clip.audio_path}: there is no sound at {clip.start:g} s')
    return np.pad(tokens, ((0, self.stream.length(clip.duration) - len(tokens)), (0, 0)), mode='edge')

  def _of(self, sound: Float[np.ndarray, 'samples 1']) -> Int[np.ndarray, 'n 1']:
    """Tokens of a track: of what is in no file, the sound itself."""
    from v2meow_jax.media import curves  # SciPy takes a tenth of a second to import

    return tokens_of(curves.analyse(sound[:, 0], self.sample_rate, float(self.rate)))

  def _in_file(self, clip: MediaClip) -> tuple[int, Int[np.ndarray, 'n 1']]:
    """Tokens of a section of the file, and the number among them of the clip's first."""
    start = Fraction(clip.start).limit_denominator(10**6)
    first = math.floor(start % self.longest * self.rate)
    state = os.stat(str(clip.audio_path))
    mark = (state.st_mtime_ns, state.st_size)
    # The section is measured from where the clip's elements are whole ones of it, and on for as long as a
    # clip that begins at its end.
    begin, seconds = start - first / self.rate, self.longest + math.ceil(clip.duration)
    return first, _measured(self, str(clip.audio_path), mark, begin, seconds)


@functools.lru_cache(maxsize=2)  # clips of a file come one after the other
def _measured(encoder: PulseEncoder, path: str, mark: tuple, start: Fraction, seconds: int) -> np.ndarray:
  del mark  # tells a file from what it was before
  sound = audio.load_audio(path, encoder.sample_rate, 1, float(start), seconds)[0]
  if not len(sound):
    raise errors.MediaError(f'{path}: there is no sound in it')
  return encoder._of(sound)


def tokens_of(analysis: 'Analysis') -> Int[np.ndarray, 'n 1']:
  """Tokens of curves in [0, 1]: loudness x 16 + onset x 4 + brightness, in steps of each."""
  loudness, brightness = (np.digitize(curve, EVEN) for curve in (analysis.energy, analysis.timbre))
  onset = np.digitize(analysis.onset, ONSETS)
  return ((loudness * STEPS + onset) * STEPS + brightness).astype(np.int32)[:, None]


def steps_of(tokens: Int[np.ndarray, '*n']) -> Int[np.ndarray, '*n 3']:
  """The steps of loudness, onset and brightness, 0 to 3 each, that tokens stand for."""
  return np.stack(np.unravel_index(tokens, (STEPS,) * 3), -1)


ENTRY = Entry(
  'pulse',
  'audio/pulse',
  settings=PulseEncoder,
  make=lambda given: configured(PulseEncoder),
  rebuild=lambda identity, sources: description.rebuild(identity['config'], [PulseEncoder], PulseEncoder),
)
