"""Tokens of vectors: k-means, and residual quantisers of several levels, fitted to any amount of data.

A level is k-means on what the levels before leave over; one level is k-means itself. Data come in blocks
that are gone through again and again, each over all devices, so that neither memory nor one device bounds
them. Each level starts by k-means++ on a random sample of all data, then Lloyd's rounds go over all of
them; a centre that loses all its points moves to one drawn with a probability proportional to its squared
distance to the nearest centre.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from v2meow_jax import errors
from v2meow_jax.encoders import kmeans

Blocks = Callable[[], Iterable[np.ndarray]]
ROWS = 16384  # vectors that are computed at once
SAMPLE = 65536  # vectors that a level is started from
ENOUGH = 1e-4  # of the error: a round that gains less is the last


@dataclasses.dataclass(frozen=True)
class Quantizer:
  """What was fitted.

  Attributes:
    codebooks: [levels, codes, d], of normalised vectors.
    mean, scale: [d]; a vector is normalised as (x - mean) x scale.
  """

  codebooks: Float[np.ndarray, 'levels codes d']
  mean: Float[np.ndarray, ' d']
  scale: Float[np.ndarray, ' d']

  @classmethod
  def plain(cls, codebooks: Float[np.ndarray, 'levels codes d']) -> 'Quantizer':
    """Of vectors as they are."""
    books = np.asarray(codebooks, np.float32)
    width = books.shape[-1]
    return cls(books, np.zeros(width, np.float32), np.ones(width, np.float32))

  def normalised(self, vectors: Float[np.ndarray, 'n d']) -> Float[np.ndarray, 'n d']:
    """(x - mean) x scale, float32."""
    return ((vectors - self.mean) * self.scale).astype(np.float32)

  def quantize(self, vectors: Float[np.ndarray, 'n d']) -> Int[np.ndarray, 'n levels']:
    """The nearest code of each level to what the levels before leave over."""
    residual, tokens = self.normalised(vectors), []
    for book in self.codebooks:
      squared = (book**2).sum(1) - 2 * residual @ book.T
      tokens.append(squared.argmin(1))
      residual = residual - book[tokens[-1]]
    return np.stack(tokens, -1).astype(np.int32)

  def error(self, vectors: Float[np.ndarray, 'n d']) -> float:
    """Mean squared distance, over all dimensions together, of normalised vectors to what their tokens say."""
    codes = self.quantize(vectors)
    said = sum(book[codes[:, level]] for level, book in enumerate(self.codebooks))
    return float(((self.normalised(vectors) - said) ** 2).sum(1).mean())

  @property
  def digest(self) -> str:
    """A hash that tells it from others."""
    made = hashlib.sha256()
    for array in (self.codebooks, self.mean, self.scale):
      made.update(np.ascontiguousarray(array, np.float32).tobytes())
    return made.hexdigest()


def fit(
  blocks: Blocks,
  levels: int,
  codes: int,
  *,
  seed: int = 0,
  normalise: bool = False,
  rounds: int = 25,
  sample: int = SAMPLE,
  devices: Iterable[Any] | None = None,
  told: Callable[[str], None] = lambda line: None,
) -> Quantizer:
  """Fits a quantiser.

  Args:
    blocks: gives the data from the start, blocks [n, d], the same each time.
    levels: codebooks.
    codes: entries of each.
    seed: of the sample and of where levels start.
    normalise: to mean 0 and deviation 1 in every dimension, before all else.
    rounds: over all data a level, at most.
    sample: vectors that levels are started from, drawn from all data.
    devices: that share the work; all of this process by default.
    told: is given a line after each round.

  Raises:
    errors.ConfigError: no level, or fewer than two codes.
    errors.DatasetError: fewer vectors than codes, or values that are not finite.
  """
  if levels < 1 or codes < 2:
    raise errors.ConfigError(f'--levels {levels} and --codes {codes}: need levels >= 1, codes >= 2')
  rng = np.random.default_rng(seed)
  drawn, count, mean, deviation = _surveyed(blocks(), max(sample, codes), rng)
  if count < codes:
    raise errors.DatasetError(
      f'{count} vectors (clips or frames) cannot make {codes} codes a level; use more data or fewer codes'
    )
  scale = 1 / (deviation + 1e-3) if normalise else np.ones_like(mean)
  shift = mean if normalise else np.zeros_like(mean)
  width = len(mean)
  made = Quantizer(
    np.zeros((0, codes, width), np.float32), shift.astype(np.float32), scale.astype(np.float32)
  )
  residual = jnp.asarray(made.normalised(drawn))
  work = _Rounds(list(devices) if devices is not None else jax.local_devices())
  for level, key in enumerate(jax.random.split(jax.random.key(seed), levels)):
    centres = np.asarray(kmeans.fit(key, residual, codes, iterations=10))
    before = np.inf
    for number in range(rounds):
      total = work.over(_pieces(blocks(), made, len(work.devices)), made.codebooks, centres, key, number)
      mean_error = total.error / count
      told(f'level {level}, round {number}: error {mean_error:.6g}, {int((total.counts == 0).sum())} unused')
      whole = bool((total.counts > 0).all())
      if whole and number and before - mean_error <= ENOUGH * before:
        break
      centres, before = total.moved(centres), mean_error
    made = dataclasses.replace(made, codebooks=np.concatenate([made.codebooks, centres[None]]))
    residual = residual - centres[np.asarray(kmeans.nearest(residual, jnp.asarray(centres)))]
  return made


def _surveyed(
  blocks: Iterable[np.ndarray], size: int, rng: np.random.Generator
) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
  """(random sample of at most `size` vectors, their number, mean, deviation), in one pass."""
  kept, marks = None, np.zeros(0)
  count, total, squares = 0, 0.0, 0.0
  for block in blocks:
    block = np.asarray(block, np.float32)
    if not np.isfinite(block).all():
      raise errors.DatasetError('there are values that are not finite among the vectors')
    wide = block.astype(np.float64)
    count, total, squares = count + len(block), total + wide.sum(0), squares + (wide**2).sum(0)
    # The vectors with the least marks are a sample in which each is as likely as any other.
    marks = np.concatenate([marks, rng.random(len(block))])
    kept = block if kept is None else np.concatenate([kept, block])
    if len(kept) > size:
      best = np.sort(np.argpartition(marks, size)[:size])
      kept, marks = kept[best], marks[best]
  if kept is None or not count:
    raise errors.DatasetError('there is nothing to fit codes to')
  mean = np.asarray(total / count)
  return kept, count, mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _pieces(
  blocks: Iterable[np.ndarray], made: Quantizer, devices: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(vectors [rows, d], which of them there are [rows]), of one size throughout."""
  rows = -(-ROWS // devices) * devices
  held, length = [], 0

  def joined() -> tuple[np.ndarray, np.ndarray]:
    whole = np.concatenate(held)
    padded = np.zeros((rows, whole.shape[1]), np.float32)
    padded[: len(whole)] = whole
    return padded, np.arange(rows) < len(whole)

  for block in blocks:
    block = made.normalised(np.asarray(block))
    while length + len(block) >= rows:
      held.append(block[: rows - length])
      block = block[rows - length :]
      yield joined()
      held, length = [], 0
    held.append(block)
    length += len(block)
  if length:
    yield joined()


@dataclasses.dataclass
class _Total:
  """What a round over all data finds."""

  sums: np.ndarray
  counts: np.ndarray
  error: float
  far: np.ndarray
  marks: np.ndarray

  def moved(self, centres: np.ndarray) -> np.ndarray:
    """Each centre at the mean of its points; those without any at points that are far from all."""
    means = self.sums / np.maximum(self.counts, 1)[:, None]
    empty = np.flatnonzero(self.counts == 0)
    if len(empty):
      order = np.argsort(-self.marks)[: len(empty)]
      means[empty[: len(order)]] = self.far[order]
      means[empty[len(order) :]] = centres[empty[len(order) :]]
    return means.astype(np.float32)


class _Rounds:
  """Lloyd's rounds, each block over all devices."""

  def __init__(self, devices: list[Any]):
    self.devices = devices
    mesh = jax.sharding.Mesh(np.array(devices), ('data',))
    self._rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    self._whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    self._step = jax.jit(_step, out_shardings=self._whole)

  def over(
    self,
    pieces: Iterable[tuple[np.ndarray, np.ndarray]],
    books: np.ndarray,
    centres: np.ndarray,
    key: Array,
    number: int,
  ) -> _Total:
    fixed = jax.device_put((books, centres), self._whole)
    total = None
    for place, piece in enumerate(pieces):
      drawn = jax.random.fold_in(jax.random.fold_in(key, number + 1), place)
      made = self._step(*fixed, *jax.device_put(piece, self._rows), drawn)
      sums, counts, error, far, marks = map(np.asarray, made)
      found = _Total(sums, counts, float(error), far, marks)
      if total is None:
        total = dataclasses.replace(found, sums=sums.astype(np.float64))
        continue
      total.sums = total.sums + found.sums
      total.counts = total.counts + found.counts
      total.error += found.error
      marks = np.concatenate([total.marks, found.marks])
      best = np.argsort(-marks)[: len(total.marks)]
      total.far, total.marks = np.concatenate([total.far, found.far])[best], marks[best]
    assert total is not None  # there are at least as many vectors as codes
    return total


def _step(books: Array, centres: Array, vectors: Array, there: Array, key: Array) -> tuple[Array, ...]:
  """(sums, counts, error, far points, their marks) of a piece."""
  codes = centres.shape[0]
  residual = vectors
  for book in books:
    residual = residual - book[kmeans.nearest(residual, book)]
  index = kmeans.nearest(residual, centres)
  squared = jnp.sum((residual - centres[index]) ** 2, -1) * there
  weights = there.astype(residual.dtype)
  counts = jnp.zeros(codes).at[index].add(weights)
  sums = jnp.zeros_like(centres).at[index].add(residual * weights[:, None])
  # The greatest of log p + Gumbel noise are a draw without replacement, in proportion to p.
  marks = jnp.log(jnp.maximum(squared, 1e-30)) + jax.random.gumbel(key, squared.shape)
  marks, far = jax.lax.top_k(jnp.where(there & (squared > 0), marks, -jnp.inf), min(codes, len(vectors)))
  # What is not there has no mark, and lies where a centre does.
  return sums, counts, squared.sum(), residual[far], marks


def of_array(vectors: Float[np.ndarray, 'n d']) -> Blocks:
  """Blocks of data that are in memory."""
  return functools.partial(lambda: [vectors])
