"""`video/motion`: colour, motion energy and cuts of a video, without any weights.

CLIP at one frame a second carries what is seen, not when it moves. This stream carries when: a few
measurements of small frames, four times a second. Every column is scaled to about unit range.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

import gin
from v2meow_jax import description
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.media.frames import Reading
from v2meow_jax.streams import Stream

COLUMNS = (
  'brightness',  # mean luma, -1 .. 1
  'contrast',  # standard deviation of luma
  'red',  # mean red minus luma
  'blue',  # mean blue minus luma
  'saturation',  # mean of max - min over the channels
  'detail',  # mean luma difference between neighbouring pixels
  'motion',  # mean absolute luma difference between frames, logarithmic
  'motion_peak',  # its greatest value within the element
  'motion_left',  # the same by quarter, relative to the whole
  'motion_right',
  'motion_top',
  'motion_bottom',
  'flash',  # signed change of mean luma
  'cut',  # greatest distance between colour histograms of successive frames, 0 .. 1
)


PIECE = 60  # elements that are measured at once


@gin.register
@dataclasses.dataclass(frozen=True)
class MotionEncoder:
  """Measures frames of a fixed size.

  Attributes:
    rate: elements a second, in Hz.
    frames: frames measured an element.
    size: (width, height) of the frames measured, in pixels.
  """

  rate: Fraction = Fraction(4)
  frames: int = 3
  size: tuple[int, int] = (64, 36)

  needs = 'video'

  def __post_init__(self):
    object.__setattr__(self, 'rate', Fraction(self.rate))
    object.__setattr__(self, 'size', tuple(self.size))

  @property
  def stream(self) -> Stream:
    """`video/motion`."""
    return Stream('video/motion', 'embedding', self.rate, len(COLUMNS))

  @property
  def readings(self) -> tuple[Reading, ...]:
    """What is asked of a clip."""
    return (Reading(self.rate * self.frames, self.size),)

  @property
  def identity(self) -> dict[str, Any]:
    """The settings."""
    return {'encoder': 'motion', 'columns': list(COLUMNS), 'config': description.describe(self)}

  def encode_clip(self, clip: MediaClip) -> Float[np.ndarray, 'n columns']:
    """Measurements of the clip, float32; a video that ends early keeps its last frame."""
    return np.concatenate(list(self.encode_gradually(clip)))

  def encode_gradually(self, clip: MediaClip) -> Iterator[Float[np.ndarray, 'n columns']]:
    """The same in blocks, each as soon as its frames are read."""
    pictures = _lasting(
      clip.frames(self.rate * self.frames, self.size), self.stream.length(clip.duration) * self.frames
    )
    # In pieces, so that memory does not grow with the video; each begins with the last element of the one
    # before, which its first new one is compared with.
    held = []
    while part := list(itertools.islice(pictures, PIECE * self.frames)):
      measured = self.measure(np.stack(held + part))
      yield measured[1:] if held else measured
      held = part[-self.frames :]

  def measure(self, frames: UInt8[np.ndarray, 'time height width 3']) -> Float[np.ndarray, 'n columns']:
    """Measurements of frames at `rate` x `frames` Hz; the time is a multiple of `frames`."""
    rgb = frames.astype(np.float32) / 255.0
    luma = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    # The first frame has no predecessor: nothing has moved yet.
    difference = np.abs(np.diff(luma, axis=0, prepend=luma[:1]))
    level = luma.mean((1, 2))
    height, width = luma.shape[1:]
    moved = difference.mean((1, 2))
    quarters = np.stack(
      [
        difference[:, :, : width // 2].mean((1, 2)),
        difference[:, :, width // 2 :].mean((1, 2)),
        difference[:, : height // 2].mean((1, 2)),
        difference[:, height // 2 :].mean((1, 2)),
      ],
      1,
    )
    histograms = self._histograms(frames)
    distance = np.abs(np.diff(histograms, axis=0, prepend=histograms[:1])).sum(1) / 2
    group = lambda x: x.reshape(-1, self.frames, *x.shape[1:])  # noqa: E731 (frames of an element)
    log = lambda x: np.log1p(200 * x) / 4  # noqa: E731 (a hundredth of the range is a lot of motion)
    return np.stack(
      [
        group(level).mean(1) * 2 - 1,
        group(luma.std((1, 2))).mean(1) * 4,
        group((rgb[..., 0] - luma).mean((1, 2))).mean(1) * 4,
        group((rgb[..., 2] - luma).mean((1, 2))).mean(1) * 4,
        group((rgb.max(-1) - rgb.min(-1)).mean((1, 2))).mean(1) * 2,
        group(np.abs(np.diff(luma, axis=2)).mean((1, 2))).mean(1) * 10,
        log(group(moved).mean(1)),
        log(group(moved).max(1)),
        *(group(quarters).mean(1).T / (group(moved).mean(1) + 1e-3) - 1),
        np.diff(group(level).mean(1), prepend=group(level).mean(1)[:1]) * 5,
        group(distance).max(1),
      ],
      1,
    ).astype(np.float32)

  def _histograms(self, frames: np.ndarray) -> np.ndarray:
    """Shares of 4 x 4 x 4 colours [time, 64]."""
    coarse = (frames >> 6).astype(np.int64)
    index = coarse[..., 0] * 16 + coarse[..., 1] * 4 + coarse[..., 2]
    flat = index.reshape(len(frames), -1) + 64 * np.arange(len(frames))[:, None]
    return np.bincount(flat.ravel(), minlength=64 * len(frames)).reshape(-1, 64) / index[0].size


def _lasting(pictures: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
  """`count` pictures; the last one stays where there are fewer."""
  picture = None
  for number, picture in enumerate(itertools.islice(pictures, count), 1):  # noqa: B007
    yield picture
  if picture is not None:
    yield from itertools.repeat(picture, count - number)


ENTRY = Entry(
  'motion',
  'video/motion',
  settings=MotionEncoder,
  make=lambda given: configured(MotionEncoder),
  rebuild=lambda identity, sources: description.rebuild(identity['config'], [MotionEncoder], MotionEncoder),
)
