"""What the training loop asks of what it trains and of what feeds it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
from etils import epath

Batch = dict[str, Any]  # stream or feature name -> array with a leading batch axis


class Trainable(Protocol):
  """A model with its optimiser. States are trees of arrays, opaque to the loop.

  The leaves that `init` returns may be boxed by Flax with logical axis names; every other method
  sees plain arrays.

  Attributes:
    layout: how layers lie in a state, `unrolled` or `scanned`; recorded in checkpoints.
    microbatches: parts that a batch is run in; the batch must divide over them.
  """

  @property
  def layout(self) -> str: ...

  @property
  def microbatches(self) -> int: ...

  def init(self, rng: jax.Array, batch: Batch) -> Any:
    """The state of step 0; `batch` is the first of the run, the whole of it."""
    ...

  def step(self, state: Any, batch: Batch, rng: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """One update: the new state and scalar metrics, `loss` among them. Pure; compiled by the loop.

    A metric `alarm/NAME` that is not 0 says that the step must not count, and why; see `training.guard`.
    """
    ...

  def evaluate(self, state: Any, batch: Batch) -> dict[str, jax.Array]:
    """Scalar metrics of a batch, and under `weight` what they count in the mean over batches."""
    ...

  def with_layout(self, layout: str) -> 'Trainable':
    """The same with states in another layout."""
    ...

  def relayout(self, tree: Any, layout: str) -> Any:
    """A state, or a part of it, in another layout."""
    ...

  def tokens(self, batch: Batch) -> int:
    """Tokens of a batch; only its shapes count."""
    ...

  def flops(self, batch: Batch) -> float | None:
    """Model FLOPs of a step, for its utilisation; None where there is no formula."""
    ...

  def describe(self) -> dict[str, Any]:
    """JSON settings from which the network can be built again without gin."""
    ...

  def weights(self, state: Any) -> Any:
    """The part of a state that inference needs, unrolled."""
    ...

  def with_weights(self, state: Any, weights: Any) -> Any:
    """A fresh state that begins with these weights."""
    ...


class Batches(Protocol):
  """A source of batches in a computed order: any position can be started from."""

  @property
  def batch_size(self) -> int: ...

  def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch, without reading data."""
    ...

  def describe(self) -> dict[str, Any]:
    """JSON values that say what made the data."""
    ...

  def start(self, position: int, rows: Sequence[int] | None = None) -> Iterator[Batch]:
    """Batches from example number `position` of the run on.

    Args:
      position: number of the first example.
      rows: numbers of the examples wanted of each batch: a host's share. All by default.
    """
    ...


@runtime_checkable
class Padded(Protocol):
  """A source of crops of a dataset, which may be longer than its clips."""

  def padding(self) -> float:
    """Share of a crop behind the end of its clip, on the average over the clips."""
    ...

  def fingerprint(self) -> str:
    """Tells the data from any other: the same wherever it lies."""
    ...


class WarmStart(Protocol):
  """Weights that a new run begins with."""

  def __call__(self, trainable: Trainable, state: Any, jit: Callable) -> tuple[Any, Any]:
    """(state, report) with weights of elsewhere in it; `jit` compiles as `jax.jit` does."""
    ...


class Sampler(Protocol):
  """Makes something to hear or see from a run's weights, every so many steps."""

  def __call__(self, about: dict[str, Any], weights: Any, directory: epath.Path) -> None:
    """Writes files.

    Args:
      about: what `Trainable.describe` says.
      weights: what `Trainable.weights` says, as NumPy arrays.
      directory: for the files; exists.
    """
    ...
