"""Batches through SeqIO, named here so that SeqIO and TensorFlow are imported only where they are used."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

import gin
from v2meow_jax import errors, terminal
from v2meow_jax.data.batches import ClipBatches, stage_batches
from v2meow_jax.data.crops import Reading
from v2meow_jax.stages import Stage


@gin.register
@dataclasses.dataclass(frozen=True)
class SeqioBatches:
  """The batches of `stage_batches`, read through a SeqIO task and feature converter.

  Attributes:
    stage: whose streams and crop.
    dataset_dir: of a prepared dataset.
    batch_size: examples a batch.
    split: `train` or `validation`.
    seed: of order and crops.
    reading: what of the dataset is read.
  """

  stage: Stage
  dataset_dir: str
  batch_size: int
  split: str = 'train'
  seed: int = 0
  reading: Reading = Reading()  # noqa: RUF009 (frozen)

  @functools.cached_property
  def _direct(self) -> ClipBatches:
    return stage_batches(self.stage, self.dataset_dir, self.batch_size, self.split, self.seed, self.reading)

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch, without a dataset."""
    return self._direct.shapes()

  def describe(self) -> dict:
    """What made each stream."""
    return self._direct.describe()

  def padding(self) -> float:
    """Share of a crop behind the end of its clip, on the average over the clips of the split."""
    return self._direct.padding()

  def fingerprint(self) -> str:
    """A hash of the clip table and of what made the streams."""
    return self._direct.fingerprint()

  def start(self, position: int, rows: Sequence[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Batches from example number `position` on, without end; of each the given rows, or all."""
    try:
      with terminal.hushed():
        from v2meow_jax.data import seqio_tasks
    except ModuleNotFoundError as error:
      raise errors.ConfigError(
        f'SeqioBatches needs {error.name}; install the extra "train", or use stage_batches instead'
      ) from error
    share = (self.batch_size, tuple(range(self.batch_size) if rows is None else map(int, rows)))
    return seqio_tasks.iterate(self.stage, self._direct.source(), share, self.split, position)
