"""`video/events`: when something happens in a video, and how strongly: cuts, motion that sets in, flashes.

`video/motion` measures how much; this stream marks moments. An element is mostly zeros. Every mark stands
where its cause is strongest and is judged by the seconds around it alone, so that a video can be read as it
comes and that a film full of motion has no more marks than a calm one with the same cuts.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

import gin
from v2meow_jax import description, errors
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.media.frames import Reading
from v2meow_jax.streams import Stream

COLUMNS = (
  'cut',  # distance of successive colour histograms beyond what is usual around it, 0 .. 1
  'motion_onset',  # rise of motion above that of the half second before, logarithmic
  'flash',  # rise of mean luma within a tenth of a second, where it is no cut
)
AROUND = 1.0  # seconds before and after, by which a frame is judged
PIECE = 40  # elements that are measured at once
LEAST = (0.15, 0.25, 0.04)  # of each column, below which nothing has happened


@gin.register
@dataclasses.dataclass(frozen=True)
class EventEncoder:
  """Marks of frames of a fixed size.

  Attributes:
    rate: elements a second, in Hz.
    frames: frames looked at an element.
    size: (width, height) of the frames, in pixels.
    floor: mean luma difference of frames, of 1, above which motion is judged by ratios, so that what stirs in
      a still picture is marked as what moves in a lively one; below are the noise and the coding of films.
  """

  rate: Fraction = Fraction(25, 2)
  frames: int = 2
  size: tuple[int, int] = (64, 36)
  floor: float = 1 / 2000

  needs = 'video'

  def __post_init__(self):
    object.__setattr__(self, 'rate', Fraction(self.rate))
    object.__setattr__(self, 'size', tuple(self.size))
    if self.rate <= 0 or self.frames < 1:
      raise errors.ConfigError(f'events: a rate of {self.rate} Hz and {self.frames} frames must be positive')
    if self.floor <= 0:
      raise errors.ConfigError(f'events: a floor of {self.floor} must be positive')

  @property
  def stream(self) -> Stream:
    """`video/events`."""
    return Stream('video/events', 'embedding', self.rate, len(COLUMNS))

  @property
  def readings(self) -> tuple[Reading, ...]:
    """What is asked of a clip."""
    return (Reading(self.rate * self.frames, self.size),)

  @property
  def identity(self) -> dict[str, Any]:
    """The settings."""
    return {'encoder': 'events', 'columns': list(COLUMNS), 'config': description.describe(self)}

  @property
  def _margin(self) -> int:
    """Elements that hold all that a frame is judged by, on either side."""
    return int(np.ceil(2 * AROUND * self.rate))

  def encode_clip(self, clip: MediaClip) -> Float[np.ndarray, 'n columns']:
    """Marks of the clip, float32; nothing happens after the end of a video that ends early."""
    return np.concatenate(list(self.encode_gradually(clip)))

  def encode_gradually(self, clip: MediaClip) -> Iterator[Float[np.ndarray, 'n columns']]:
    """The same in blocks, each as soon as the frames that it is judged by are read."""
    wanted, done, first = self.stream.length(clip.duration), 0, 0
    pictures = clip.frames(self.rate * self.frames, self.size)
    held: list[np.ndarray] = []  # from element `first` on
    while done < wanted:
      ahead = (done + PIECE + self._margin - first) * self.frames
      held += itertools.islice(pictures, ahead - len(held))
      if not held:
        return
      stop = min(wanted, done + PIECE)
      if len(held) < ahead:  # there are no more: the last one stays
        stop = wanted
        held += held[-1:] * ((wanted - first) * self.frames - len(held))
      marks = self.measure(np.stack(held))
      yield marks[done - first : stop - first]
      done, keep = stop, max(first, stop - self._margin)
      held, first = held[(keep - first) * self.frames :], keep

  def measure(self, frames: UInt8[np.ndarray, 'time height width 3']) -> Float[np.ndarray, 'n columns']:
    """Marks of frames at `rate` x `frames` Hz, one row for each whole element."""
    second = max(1, round(self.rate * self.frames))  # frames
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    level = luma.mean((1, 2))
    coarse = (frames >> 6).astype(np.int64)
    index = (coarse[..., 0] * 16 + coarse[..., 1] * 4 + coarse[..., 2]).reshape(len(frames), -1)
    index += 64 * np.arange(len(frames))[:, None]
    histogram = np.bincount(index.ravel(), minlength=64 * len(frames)).reshape(-1, 64) / index.shape[1]
    distance = np.abs(np.diff(histogram, axis=0, prepend=histogram[:1])).sum(1) / 2
    around = round(AROUND * second)
    usual = np.median(_windows(distance, around, around), -1)
    cut = np.clip(distance - 2 * usual, 0, 1)
    # Of frames that are exact copies, as where a film has fewer a second, the motion is that before them.
    moved = np.abs(np.diff(luma, axis=0, prepend=luma[:1])).mean((1, 2))
    moved = np.log1p(_windows(moved, 2, 0).max(-1) / self.floor) / 4
    half = max(1, second // 2)
    before = _windows(moved, half - 1, 0).mean(-1)
    before = np.concatenate([before[:1].repeat(2), before[:-2]])[: len(before)]
    onset = np.maximum(moved - before, 0)
    tenth = max(1, round(second / 10))
    earlier = np.concatenate([level[:1].repeat(tenth), level])[: len(level)]
    flash = np.maximum(level - earlier, 0)
    is_cut = _windows(cut, tenth, tenth).max(-1) > LEAST[0]
    rows = []
    curves = (cut, np.where(is_cut, 0, onset), np.where(is_cut, 0, flash))
    for curve, least in zip(curves, LEAST, strict=True):
      # The strongest within a fifth of a second, the first of equal ones.
      near = max(1, second // 5)
      peak = (curve >= _windows(curve, near, near).max(-1)) & (curve > least)
      peak &= ~np.concatenate([[False], peak[:-1]])
      rows.append(np.where(peak, curve, 0))
    whole = len(frames) // self.frames
    marks = np.stack(rows, 1)[: whole * self.frames].reshape(whole, self.frames, len(COLUMNS))
    return marks.max(1).astype(np.float32)


def _windows(x: Float[np.ndarray, ' n'], before: int, after: int) -> Float[np.ndarray, 'n w']:
  """Each value with so many before and after it; the first and the last one stay beyond the ends."""
  # SciPy's filters do it too, but take a third of a second to import.
  return np.lib.stride_tricks.sliding_window_view(np.pad(x, (before, after), 'edge'), before + after + 1)


def _essence(identity: Mapping[str, Any]) -> dict[str, Any]:
  """The identity; earlier versions named no floor, and had a higher one."""
  config = identity.get('config')
  return {**identity, 'config': {'floor': 1 / 200} | config if isinstance(config, dict) else config}


ENTRY = Entry(
  'events',
  'video/events',
  settings=EventEncoder,
  make=lambda given: configured(EventEncoder),
  rebuild=lambda identity, sources: description.rebuild(
    _essence(identity)['config'], [EventEncoder], EventEncoder
  ),
  essence=_essence,
)
