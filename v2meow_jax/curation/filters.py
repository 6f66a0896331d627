"""What keeps a film or a clip out of a dataset: one class a reason, its thresholds bound by gin.

`Curation.filters = (@Silence(), @Loudness())` says which, and in which order. A filter whose medium a clip
lacks lets it pass.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

import gin
from v2meow_jax.curation import pictures, sound
from v2meow_jax.curation.measuring import Measured
from v2meow_jax.data.spans import Span
from v2meow_jax.media import loudness


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A clip, or the whole span of a row, that may become part of a dataset.

  Attributes:
    id: of the clip or row.
    source: of the row.
    begin, seconds: within the span.
    span: of the row.
    measured: of the row.
  """

  id: str
  source: str
  begin: float
  seconds: float
  span: Span
  measured: Measured

  def _cut(self, data: bytes, dtype: str, rate: float, width: int = 1) -> np.ndarray:
    values = np.frombuffer(data, dtype)
    values = values.reshape(-1, width) if width > 1 else values
    return values[round(self.begin * rate) : max(1, round((self.begin + self.seconds) * rate))]

  @functools.cached_property
  def energies(self) -> np.ndarray | None:
    """`Sound.energies` of the clip."""
    told = self.measured.sound
    return None if told is None else self._cut(told.energies, '<f4', sound.ENERGY_RATE)

  @functools.cached_property
  def powers(self) -> np.ndarray | None:
    """`Sound.powers` of the clip."""
    told = self.measured.sound
    return None if told is None else self._cut(told.powers, '<f4', sound.ENERGY_RATE)

  @functools.cached_property
  def landmarks(self) -> tuple[np.ndarray, np.ndarray] | None:
    """(hashes, frames) of `Sound` that lie in the clip."""
    told = self.measured.sound
    if told is None:
      return None
    hashes, frames = np.frombuffer(told.hashes, '<u4'), np.frombuffer(told.frames, '<i4')
    edges = np.array([self.begin, self.begin + self.seconds]) * sound.FRAME_RATE
    inside = (frames >= edges[0]) & (frames < edges[1])
    return hashes[inside], frames[inside]

  @functools.cached_property
  def speech(self) -> np.ndarray | None:
    """Probabilities of speech, 0 to 1."""
    told = self.measured.speech
    return None if told is None else self._cut(told.probabilities, 'u1', sound.SPEECH_RATE) / 255

  @functools.cached_property
  def changes(self) -> np.ndarray | None:
    """`Pictures.changes` of the clip, whose first picture is compared with nothing."""
    told = self.measured.pictures
    return None if told is None else self._cut(told.changes, '<f2', pictures.RATE)[1:].astype(np.float32)

  @functools.cached_property
  def looks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(hashes, contrasts, bars) of `Pictures` of the clip."""
    told = self.measured.pictures
    if told is None:
      return None
    rate = pictures.LOOK_RATE
    return (
      self._cut(told.hashes, '<u8', rate),
      self._cut(told.contrasts, 'u1', rate),
      self._cut(told.bars, 'u1', rate, 4),
    )

  @property
  def loudness(self) -> float | None:
    """Integrated loudness in LUFS; -inf for silence."""
    return None if self.energies is None else loudness.of_tenths(self.energies)


class Filter:
  """Says of candidates why they are left out.

  Attributes:
    needs: kinds of measures, of `measuring.KINDS`.
    whole: whether rows are judged as they are, before they are cut into clips.
  """

  needs: ClassVar[tuple[str, ...]] = ()
  whole: ClassVar[bool] = False

  def reason(self, candidate: Candidate) -> str:
    """Why it is left out; empty where it is not."""
    raise NotImplementedError

  def judge(self, candidates: Sequence[Candidate]) -> tuple[list[str], list[tuple[str, str]]]:
    """(the reason of each, pairs of sources that belong into one split)."""
    return [self.reason(candidate) for candidate in candidates], []


@gin.register
@dataclasses.dataclass(frozen=True)
class Length(Filter):
  """Films of an odd length, in seconds: advertisements, or a night of rain."""

  least: float = 10.0
  most: float = 7200.0

  whole = True

  def reason(self, candidate: Candidate) -> str:
    seconds = candidate.seconds
    if self.least <= seconds <= self.most:
      return ''
    return f'{seconds:.1f} s long, not {self.least:g} to {self.most:g} s'


@gin.register
@dataclasses.dataclass(frozen=True)
class Aspect(Filter):
  """Films whose width by height is out of the ordinary."""

  least: float = 0.5
  most: float = 2.5

  whole = True

  def reason(self, candidate: Candidate) -> str:
    span = candidate.span
    if not (span.width and span.height) or self.least <= span.width / span.height <= self.most:
      return ''
    return f'{span.width} x {span.height} pixels, width by height not {self.least:g} to {self.most:g}'


@gin.register
@dataclasses.dataclass(frozen=True)
class Silence(Filter):
  """Clips of which more than `most` lies below `floor` dB of full scale, by tenths of a second."""

  floor: float = -60.0
  most: float = 0.5

  needs = ('sound',)

  def reason(self, candidate: Candidate) -> str:
    if candidate.powers is None:
      return ''
    share = float((candidate.powers < 10 ** (self.floor / 10)).mean())
    return f'{share:.0%} silent (below {self.floor:g} dB)' if share > self.most else ''


@gin.register
@dataclasses.dataclass(frozen=True)
class Loudness(Filter):
  """Clips too soft or too loud, in LUFS."""

  least: float = -45.0
  most: float = -3.0

  needs = ('sound',)

  def reason(self, candidate: Candidate) -> str:
    level = candidate.loudness
    if level is None or self.least <= level <= self.most:
      return ''
    return f'{level:.1f} LUFS, not {self.least:g} to {self.most:g}'


@gin.register
@dataclasses.dataclass(frozen=True)
class Speech(Filter):
  """Clips of which more than `most` is speech, with a probability above `threshold`."""

  most: float = 0.5
  threshold: float = 0.5

  needs = ('speech',)

  def reason(self, candidate: Candidate) -> str:
    if candidate.speech is None or not len(candidate.speech):
      return ''
    share = float((candidate.speech > self.threshold).mean())
    return f'{share:.0%} speech' if share > self.most else ''


@gin.register
@dataclasses.dataclass(frozen=True)
class Static(Filter):
  """Clips whose pictures stand still for more than `most` of the time: covers, slides.

  `least` is the mean difference between pictures an eighth of a second apart, of 255, that is movement.
  """

  most: float = 0.9
  least: float = 0.3

  needs = ('pictures',)

  def reason(self, candidate: Candidate) -> str:
    if candidate.changes is None or not len(candidate.changes):
      return ''
    share = float((candidate.changes < self.least).mean())
    return f'pictures stand still {share:.0%} of the time' if share > self.most else ''


@gin.register
@dataclasses.dataclass(frozen=True)
class Bars(Filter):
  """Clips of which more than `most` of the picture is black bars throughout."""

  most: float = 0.3

  needs = ('pictures',)

  def reason(self, candidate: Candidate) -> str:
    if candidate.looks is None:
      return ''
    bars = candidate.looks[2]
    bars = bars[bars[:, 0] != 255]  # pictures that are all black say nothing
    if not len(bars):
      return 'all of the picture is black'
    top, bottom, left, right = bars.min(0).astype(int)
    width, height = pictures.SIZE
    share = 1 - (width - left - right) * (height - top - bottom) / (width * height)
    return f'{share:.0%} of the picture is black bars' if share > self.most else ''
