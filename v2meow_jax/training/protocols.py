"""What the training loop asks of what it trains and of what feeds it."""

from collections.abc import Iterator
from typing import Any, Protocol

import jax

Batch = dict[str, Any]  # stream or feature name -> array with a leading batch axis


class Trainable(Protocol):
  """A model with its optimiser. States are trees of arrays, opaque to the loop.

  The leaves that `init` returns may be boxed by Flax with logical axis names; every other method
  sees plain arrays.
  """

  def init(self, rng: jax.Array, batch: Batch) -> Any:
    """The state of step 0."""
    ...

  def step(self, state: Any, batch: Batch, rng: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """One update: the new state and scalar metrics. Pure; compiled by the loop."""
    ...

  def evaluate(self, state: Any, batch: Batch) -> dict[str, jax.Array]:
    """Scalar metrics of a batch, and under `weight` what they count in the mean over batches."""
    ...

  def describe(self) -> dict[str, Any]:
    """JSON settings from which the network can be built again without gin."""
    ...

  def weights(self, state: Any) -> Any:
    """The part of a state that inference needs."""
    ...


class Batches(Protocol):
  """A source of batches in a computed order: any position can be started from."""

  batch_size: int

  def describe(self) -> dict[str, Any]:
    """JSON values that say what made the data."""
    ...

  def start(self, position: int) -> Iterator[Batch]:
    """Batches from example number `position` of the run on."""
    ...
