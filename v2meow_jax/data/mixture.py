"""Several datasets in one run, each at a rate, in a computed order.

Examples come in blocks in which every dataset has its exact share, in an order that is a hash of seed and
block. So how many examples of each have been seen after n is known from n alone, and a mixture is resumed,
and read by any number of hosts, as one dataset is. From a step on the rates may be others: what came before
stays as it was.
"""

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import jax
import numpy as np

import gin
from v2meow_jax import errors, stores
from v2meow_jax.data import order
from v2meow_jax.data.batches import ClipBatches, stacked
from v2meow_jax.streams import DATASET

LARGEST_BLOCK = 4096  # examples


def shares(rates: Sequence[float], names: Sequence[str]) -> tuple[int, ...]:
  """Examples of each dataset in a block: the smallest whole numbers in the ratio of the rates.

  Raises:
    errors.ConfigError: not a rate a dataset, or no ratio of small numbers.
  """
  if len(rates) != len(names) or min(rates) < 0 or not sum(rates):
    raise errors.ConfigError(
      f'Mixture: {len(names)} datasets need as many rates, none of them negative and not all 0: '
      f'{tuple(rates)}'
    )
  exact = [Fraction(str(rate)).limit_denominator(1000) for rate in rates]
  whole = [rate * math.lcm(*(rate.denominator for rate in exact)) for rate in exact]
  divisor = math.gcd(*(int(rate) for rate in whole))
  found = tuple(int(rate) // divisor for rate in whole)
  if sum(found) > LARGEST_BLOCK:
    raise errors.ConfigError(
      f'Mixture: rates {tuple(rates)} are the ratio of numbers whose sum is {sum(found)}; take rounder ones'
    )
  return found


@dataclasses.dataclass(frozen=True)
class _Period:
  """Examples from number `first` on, in blocks of these shares; `seen` of each dataset came before."""

  first: int
  shares: tuple[int, ...]
  seen: tuple[int, ...]

  def block(self, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(dataset, how many of it came before in the block) of the examples of a block."""
    return _block(self.shares, order.fold(seed, self.first, number))

  def place(self, seed: int, n: int) -> tuple[int, int]:
    """(dataset, number in it) of an example of the period."""
    block, at = divmod(n - self.first, sum(self.shares))
    which, rank = self.block(seed, block)
    dataset = int(which[at])
    return dataset, self.seen[dataset] + block * self.shares[dataset] + int(rank[at])

  def seen_until(self, seed: int, n: int) -> tuple[int, ...]:
    """Examples of each dataset before number `n`."""
    block, at = divmod(n - self.first, sum(self.shares))
    which, _ = self.block(seed, block)
    part = np.bincount(which[:at], minlength=len(self.shares))
    return tuple(
      seen + block * share + int(more) for seen, share, more in zip(self.seen, self.shares, part, strict=True)
    )


@functools.lru_cache(64)
def _block(shares: tuple[int, ...], key: int) -> tuple[np.ndarray, np.ndarray]:
  which = np.repeat(np.arange(len(shares)), shares)
  which = which[np.argsort(np.random.Philox(key=key).random_raw(len(which)), kind='stable')]
  rank = np.zeros(len(which), np.int64)
  for dataset in range(len(shares)):
    mine = which == dataset
    rank[mine] = np.arange(mine.sum())
  return which, rank


@gin.register
@dataclasses.dataclass(frozen=True)
class Mixture:
  """Batches of several datasets.

  A batch also has `dataset/NAME` [batch] bool for each of them, by which training tells their losses apart.

  Attributes:
    parts: `@stage_batches()` or `@ClipBatches()` a dataset, of the same streams and crop; their batch sizes
      do not count.
    names: one a dataset.
    rates: of the datasets, in any unit.
    batch_size: examples a batch.
    changes: (step, rates) from which on other rates hold.
    seed: of the order in which datasets take turns.
  """

  parts: tuple[ClipBatches, ...]
  names: tuple[str, ...]
  rates: tuple[float, ...]
  batch_size: int
  changes: tuple[tuple[int, tuple[float, ...]], ...] = ()
  seed: int = 0

  def __post_init__(self):
    if self.batch_size < 1 or not self.parts or len(set(self.names)) != len(self.parts):
      raise errors.ConfigError(
        'Mixture: it needs parts, a name of its own for each, and a positive batch_size'
      )
    if any(dataclasses.replace(part, batch_size=1).shapes() != self._one() for part in self.parts):
      raise errors.ConfigError('Mixture: its parts have different streams or crops')
    steps = [step for step, _ in self.changes]
    if steps != sorted(set(steps)) or (steps and steps[0] < 1):
      raise errors.ConfigError(f'Mixture: the steps of its changes do not rise: {steps}')
    _ = self._periods

  def _one(self) -> dict[str, jax.ShapeDtypeStruct]:
    return dataclasses.replace(self.parts[0], batch_size=1).shapes()

  @functools.cached_property
  def _periods(self) -> list[_Period]:
    found = [_Period(0, shares(self.rates, self.names), (0,) * len(self.parts))]
    for step, rates in self.changes:
      first = step * self.batch_size
      found.append(_Period(first, shares(rates, self.names), found[-1].seen_until(self.seed, first)))
    return found

  def place(self, n: int) -> tuple[int, int]:
    """(dataset, number of its example) of example n of the run."""
    firsts = [period.first for period in self._periods]
    return self._periods[bisect.bisect_right(firsts, n) - 1].place(self.seed, n)

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch, without a dataset."""
    found = {
      name: jax.ShapeDtypeStruct((self.batch_size, *x.shape[1:]), x.dtype) for name, x in self._one().items()
    }
    marks = {f'{DATASET}{name}': jax.ShapeDtypeStruct((self.batch_size,), np.bool_) for name in self.names}
    return found | marks

  def describe(self) -> dict:
    """What made each stream.

    Raises:
      errors.DatasetError: a stream was made by different encoders.
    """
    made: dict = {}
    for name, part in zip(self.names, self.parts, strict=True):
      for stream, by in part.describe().items():
        if made.setdefault(stream, by) != by:
          raise errors.DatasetError(
            f'{part.dataset_dir}: stream {stream} of {name} was made by another encoder than that of the '
            'other datasets; prepare it alike'
          )
    return made

  def padding(self) -> float:
    """Share of a crop behind the end of its clip, of the dataset where it is largest."""
    return max(part.padding() for part in self.parts)

  def fingerprint(self) -> str:
    """A hash of all tables and of what made the streams."""
    return ' '.join(part.fingerprint() for part in self.parts)

  def start(self, position: int, rows: Sequence[int] | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Batches from example number `position` on, without end; of each the given rows, or all."""
    sources = [part.source() for part in self.parts]
    marks = np.eye(len(self.parts), dtype=bool)

    def example(n: int) -> dict[str, np.ndarray]:
      dataset, number = self.place(n)
      told = {f'{DATASET}{name}': mark for name, mark in zip(self.names, marks[dataset], strict=True)}
      return sources[dataset][number] | told

    rows = range(self.batch_size) if rows is None else rows
    firsts = itertools.count(position, self.batch_size)
    numbers = (first + int(row) for first in firsts for row in rows)
    at_once = max(part.at_once for part in self.parts)
    return stacked(stores.in_order(example, numbers, at_once), len(rows))
