"""Examples of a run: crops of a dataset's clips, by their number."""

import dataclasses
from fractions import Fraction

import numpy as np

import gin
from v2meow_jax.data import exclusion, order
from v2meow_jax.data.dataset import Dataset
from v2meow_jax.streams import Stream, crop_all


@gin.register
@dataclasses.dataclass(frozen=True)
class Reading:
  """What of a dataset is read.

  Attributes:
    across_clips: whether a crop goes on in the next clip of its source, where that begins where the clip
      ends; otherwise what lies behind the clip's end is padding.
    exclude: a list of clips that are left out, see `exclusion`.
    may_lack: names of streams that the dataset need not have; where it has none of one, or where a clip has
      no elements, all is masked.
  """

  across_clips: bool = False
  exclude: str | None = None
  may_lack: tuple[str, ...] = ()


class CropSource:
  """Examples of a run by their number.

  Args:
    dataset: a split with the streams wanted.
    crop_seconds: length of a crop.
    seed: of order and crops.
    reading: what of the dataset is read.

  Raises:
    errors.DatasetError: all clips are excluded, or the list of those is damaged.
  """

  def __init__(self, dataset: Dataset, crop_seconds: Fraction, seed: int, reading: Reading = Reading()):
    self.dataset, self.crop_seconds, self.seed = dataset, Fraction(crop_seconds), seed
    rates = [stream.rate for stream in dataset.streams if stream.rate]
    # Crops start where an element of the slowest stream does, so that it is never cut between two.
    self.grid = min(rates) if rates else Fraction(1)
    self._reading, self._across = reading, reading.across_clips
    self._columns = dataset.clips.columns
    self._kept = exclusion.kept(dataset.clips, reading.exclude) if reading.exclude else None

  def with_seed(self, seed: int) -> 'CropSource':
    """The same clips in another order and with other crops."""
    return CropSource(self.dataset, self.crop_seconds, seed, self._reading)

  def __len__(self) -> int:
    """Clips, and so examples of an epoch."""
    return len(self._columns) if self._kept is None else len(self._kept)

  def place(self, n: int) -> tuple[int, Fraction]:
    """(clip, start in seconds) of example n."""
    clip, epoch = order.locate(n, len(self), self.seed)
    if self._kept is not None:
      clip = int(self._kept[clip])
    known = int(self._columns['hash'][clip])
    return clip, order.crop_start(known, epoch, self.seed, self._span(clip), self.crop_seconds, self.grid)

  def _span(self, clip: int) -> Fraction:
    """Seconds from the beginning of a clip in which a crop of it may lie."""
    duration = self._duration(clip)
    if not self._across:
      return duration
    # A crop starts within its clip, so that every moment of a source is as likely as any other.
    most, span = duration + self.crop_seconds - 1 / self.grid, duration
    while span < most and self._columns['adjoins'][clip]:
      clip += 1
      span += self._duration(clip)
    return min(span, most)

  def _duration(self, clip: int) -> Fraction:
    return Fraction(round(float(self._columns['duration'][clip]) * 10**6), 10**6)

  def covered(self) -> np.ndarray:
    """Seconds of its crop that each clip of an epoch can fill at most."""
    clips = np.arange(len(self._columns)) if self._kept is None else self._kept
    crop = float(self.crop_seconds)
    seconds = np.minimum(self._columns['duration'], crop)
    if self._across:
      ends = np.cumsum(self._columns['duration'], dtype=np.float64)
      starts = ends - self._columns['duration']
      # The end of the run of adjoining clips that each lies in: of the next one that none follows.
      last = np.where(self._columns['adjoins'], np.inf, ends)
      run = np.minimum.accumulate(last[::-1])[::-1]
      seconds = np.minimum(run - starts, crop)
    return seconds[clips]

  def _read(self, clip: int, stream: Stream, first: int, stop: int) -> np.ndarray:
    found = self.dataset.read(stream, clip, first, stop)
    if not self._across or not stream.rate:
      return found
    pieces, have, wanted = [found], len(found), stop - first
    while have < wanted and self._columns['adjoins'][clip]:
      length = self.dataset.length(stream, clip)
      # Where elements are missing at a clip's end, those of the next one would come too early.
      if abs(length - float(self._columns['duration'][clip]) * float(stream.rate)) > 1:
        break
      first, stop, clip = max(first - length, 0) if not have else 0, stop - length, clip + 1
      pieces.append(self.dataset.read(stream, clip, first, stop))
      have += len(pieces[-1])
    return np.concatenate(pieces)

  def __getitem__(self, n: int) -> dict[str, np.ndarray]:
    clip, start = self.place(n)

    def read(stream: Stream, first: int, stop: int) -> np.ndarray:
      return self._read(clip, stream, first, stop)

    return crop_all(self.dataset.streams, read, start, self.crop_seconds)
