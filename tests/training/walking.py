"""A model whose every state has a closed form: what the tests of checkpoints, retention and guard train."""

import jax
import jax.numpy as jnp
import numpy as np
import simple


class Walk(simple.Simple):
  """Adds up integers from each step's key and batch, without rounding.

  Args:
    width: places that walk.
    extra: one leaf more that never changes.
    dtype: of the places.
  """

  def __init__(self, width=3, extra=False, dtype=jnp.int32):
    self.width, self.extra, self.dtype = width, extra, dtype

  def init(self, rng, batch):
    del rng, batch
    state = {'at': jnp.zeros(self.width, self.dtype), 'steps': jnp.zeros((), jnp.int32)}
    return state | ({'more': jnp.zeros(2)} if self.extra else {})

  def step(self, state, batch, rng):
    move = jax.random.randint(rng, (self.width,), -100, 100).astype(self.dtype)
    moved = {'at': state['at'] + move + batch['x'].sum().astype(self.dtype), 'steps': state['steps'] + 1}
    metrics = {'loss': batch['loss'].mean()}
    return state | moved, metrics | ({'grad_norm': batch['grad'].mean()} if 'grad' in batch else {})

  def evaluate(self, state, batch):
    del state
    return {'loss': batch['loss'].mean(), 'weight': jnp.float32(1)}

  def describe(self):
    return {'kind': 'walk', 'width': self.width}

  def weights(self, state):
    return state['at']


class Counting:
  """Example n is the number n.

  Args:
    at: called with each position that is read.
    poisoned: position from which on losses are not finite.
  """

  batch_size = 2

  def __init__(self, at=lambda position: None, poisoned=None):
    self.at, self.poisoned = at, poisoned

  def describe(self):
    return {}

  def start(self, position, rows=None):
    assert rows is None or list(rows) == [0, 1]
    while True:
      self.at(position)
      bad = self.poisoned is not None and position >= self.poisoned
      loss = np.full(2, np.nan if bad else 1.0, np.float32)
      yield {'x': np.arange(position, position + 2, dtype=np.int32), 'loss': loss}
      position += 2


def walked(seed, counted, width=3):
  """The state after the updates (number of the step from 0, number of the batch), added up in NumPy."""
  root = jax.random.fold_in(jax.random.key(seed), 1)
  at = np.zeros(width, np.int32)
  for step, batch in counted:
    move = jax.random.randint(jax.random.fold_in(root, step), (width,), -100, 100)
    at += np.asarray(move) + 4 * batch + 1
  return {'at': at, 'steps': len(counted)}
