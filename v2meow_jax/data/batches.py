"""Batches of crops for training, read in the computed order. Needs neither TensorFlow nor SeqIO.

A batch is a dictionary of what `streams.crop` returns for every stream, with a leading batch axis.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction

import jax
import numpy as np

import gin
from v2meow_jax import errors, stores
from v2meow_jax.data import exclusion
from v2meow_jax.data.crops import CropSource, Reading
from v2meow_jax.data.dataset import Dataset, fingerprint
from v2meow_jax.stages import Stage
from v2meow_jax.streams import Stream, crop_all, read_nothing


@gin.register
@dataclasses.dataclass(frozen=True)
class ClipBatches:
  """Batches straight from the shards.

  Attributes:
    dataset_dir: of a prepared dataset.
    streams: what an example holds.
    crop_seconds: length of a crop, in seconds.
    batch_size: examples a batch.
    split: `train` or `validation`.
    seed: of order and crops.
    reading: what of the dataset is read.
  """

  dataset_dir: str
  streams: tuple[Stream, ...]
  crop_seconds: Fraction
  batch_size: int
  split: str = 'train'
  seed: int = 0
  reading: Reading = Reading()  # noqa: RUF009 (frozen)

  def __post_init__(self):
    if self.batch_size < 1:
      raise errors.ConfigError(f'batch_size {self.batch_size} is not a positive number')

  @functools.cached_property
  def _dataset(self) -> Dataset:
    # Opened once: the table of a large dataset takes long to read.
    return Dataset(self.dataset_dir, self.split, tuple(self.streams), self.reading.may_lack)

  @property
  def at_once(self) -> int:
    """Examples that are read at the same time: many where each is a request to an object store."""
    return self._dataset.at_once

  @functools.cached_property
  def _source(self) -> CropSource:
    return CropSource(self._dataset, Fraction(self.crop_seconds), self.seed, self.reading)

  def source(self) -> CropSource:
    """The examples behind the batches."""
    return self._source

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch, without a dataset."""
    example = crop_all(self.streams, read_nothing, Fraction(0), Fraction(self.crop_seconds))
    return {
      name: jax.ShapeDtypeStruct((self.batch_size, *value.shape), value.dtype)
      for name, value in example.items()
    }

  def describe(self) -> dict:
    """What made each stream, for whoever uses the trained weights."""
    found = ((stream.name, self._dataset.identity(stream)) for stream in self._dataset.streams)
    return {name: made_by for name, made_by in found if made_by is not None}

  def padding(self) -> float:
    """Share of a crop behind the end of its clip, on the average over the clips of the split."""
    return 1 - float(self._source.covered().mean()) / float(self.crop_seconds)

  def fingerprint(self) -> str:
    """A hash of the clip table and of what made the streams that are read; others may be added."""
    excluded, names = self.reading.exclude, [stream.name for stream in self.streams]
    return fingerprint(self.dataset_dir, names) + (f'-{exclusion.digest(excluded)}' if excluded else '')

  def start(self, position: int, rows: Sequence[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Batches from example number `position` on, without end; of each the given rows, or all."""
    rows = range(self.batch_size) if rows is None else rows
    firsts = itertools.count(position, self.batch_size)
    numbers = (first + int(row) for first in firsts for row in rows)
    return stacked(stores.in_order(self._source.__getitem__, numbers, self.at_once), len(rows))


def stacked(examples: Iterator[dict[str, np.ndarray]], size: int) -> Iterator[dict[str, np.ndarray]]:
  """Batches of `size` examples each."""
  while True:
    some = list(itertools.islice(examples, size))
    yield {name: np.stack([example[name] for example in some]) for name in some[0]}


@gin.register
def stage_batches(
  stage: Stage,
  dataset_dir: str,
  batch_size: int,
  split: str = 'train',
  seed: int = 0,
  reading: Reading = Reading(),  # noqa: B008 (frozen)
) -> ClipBatches:
  """`ClipBatches` with the streams and the crop of a stage."""
  return ClipBatches(dataset_dir, stage.streams, stage.crop_seconds, batch_size, split, seed, reading)
