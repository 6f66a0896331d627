"""Batches of crops for training, read in the computed order. Needs neither TensorFlow nor SeqIO.

A batch is a dictionary of what `streams.crop` returns for every stream, with a leading batch axis.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import jax
import numpy as np

import gin
from v2meow_jax import errors
from v2meow_jax.data import order
from v2meow_jax.data.dataset import Dataset, fingerprint
from v2meow_jax.stages import Stage
from v2meow_jax.streams import Stream, crop_all, read_nothing


class CropSource:
  """Examples of a run by their number.

  Args:
    dataset: a split with the streams wanted.
    crop_seconds: length of a crop.
    seed: of order and crops.
  """

  def __init__(self, dataset: Dataset, crop_seconds: Fraction, seed: int):
    self.dataset, self.crop_seconds, self.seed = dataset, Fraction(crop_seconds), seed
    rates = [stream.rate for stream in dataset.streams if stream.rate]
    # Crops start where an element of the slowest stream does, so that it is never cut between two.
    self.grid = min(rates) if rates else Fraction(1)
    self._durations = [Fraction(clip.duration).limit_denominator(10**6) for clip in dataset.clips]

  def place(self, n: int) -> tuple[int, Fraction]:
    """(clip, start in seconds) of example n."""
    clip, epoch = order.locate(n, len(self.dataset.clips), self.seed)
    clip_id = self.dataset.clips[clip].id
    return clip, order.crop_start(
      clip_id, epoch, self.seed, self._durations[clip], self.crop_seconds, self.grid
    )

  def __getitem__(self, n: int) -> dict[str, np.ndarray]:
    clip, start = self.place(n)

    def read(stream: Stream, first: int, stop: int) -> np.ndarray:
      return self.dataset.read(stream, clip, first, stop)

    return crop_all(self.dataset.streams, read, start, self.crop_seconds)


@gin.register
@dataclasses.dataclass(frozen=True)
class ClipBatches:
  """Batches straight from the memory-mapped shards.

  Attributes:
    dataset_dir: of a prepared dataset.
    streams: what an example holds.
    crop_seconds: length of a crop, in seconds.
    batch_size: examples a batch.
    split: `train` or `validation`.
    seed: of order and crops.
  """

  dataset_dir: str
  streams: tuple[Stream, ...]
  crop_seconds: Fraction
  batch_size: int
  split: str = 'train'
  seed: int = 0

  def __post_init__(self):
    if self.batch_size < 1:
      raise errors.ConfigError(f'batch_size {self.batch_size} is not a positive number')

  @functools.cached_property
  def _dataset(self) -> Dataset:
    # Opened once: the table of a large dataset takes long to read.
    return Dataset(self.dataset_dir, self.split, tuple(self.streams))

  def source(self) -> CropSource:
    """The examples behind the batches."""
    return CropSource(self._dataset, Fraction(self.crop_seconds), self.seed)

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch, without a dataset."""
    example = crop_all(self.streams, read_nothing, Fraction(0), Fraction(self.crop_seconds))
    return {
      name: jax.ShapeDtypeStruct((self.batch_size, *value.shape), value.dtype)
      for name, value in example.items()
    }

  def describe(self) -> dict:
    """What made each stream, for whoever uses the trained weights."""
    return {stream.name: self._dataset.identity(stream) for stream in self._dataset.streams}

  def padding(self) -> float:
    """Share of a crop behind the end of its clip, on the average over the clips of the split."""
    crop = float(self.crop_seconds)
    durations = np.asarray([clip.duration for clip in self._dataset.clips])
    return float(np.maximum(0, 1 - durations / crop).mean())

  def fingerprint(self) -> str:
    """A hash of the clip table and of what made the streams."""
    return fingerprint(self.dataset_dir)

  def start(self, position: int, rows: Sequence[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Batches from example number `position` on, without end; of each the given rows, or all."""
    source = self.source()
    rows = range(self.batch_size) if rows is None else rows
    while True:
      examples = [source[position + int(row)] for row in rows]
      yield {key: np.stack([example[key] for example in examples]) for key in examples[0]}
      position += self.batch_size


@gin.register
def stage_batches(
  stage: Stage, dataset_dir: str, batch_size: int, split: str = 'train', seed: int = 0
) -> ClipBatches:
  """`ClipBatches` with the streams and the crop of a stage."""
  return ClipBatches(dataset_dir, stage.streams, stage.crop_seconds, batch_size, split, seed)
