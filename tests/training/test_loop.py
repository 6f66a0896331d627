"""The loop: exact resume after a stop, an error and a kill; what is written, and what is refused."""

import json
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import simple

from v2meow_jax import errors
from v2meow_jax.training import loop
from v2meow_jax.training.checkpoints import Checkpoints, restore_arrays
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.prefetch import prefetch

STEPS = 24


class Regression(simple.Simple):
  """Least squares with noise in every step, so that wrong keys would show."""

  def __init__(self, width=5, rate=0.05):
    self.width, self.optimizer = width, optax.adam(rate)

  def init(self, rng, batch):
    params = {'w': jax.random.normal(rng, (self.width, batch['x'].shape[-1]))}
    return {'params': params, 'opt_state': self.optimizer.init(params)}

  def step(self, state, batch, rng):
    def loss_fn(params):
      noise = 0.1 * jax.random.normal(rng, batch['x'].shape)
      return jnp.mean(((batch['x'] + noise) @ params['w'].T - batch['y']) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state['params'])
    updates, opt_state = self.optimizer.update(grads, state['opt_state'])
    return {'params': optax.apply_updates(state['params'], updates), 'opt_state': opt_state}, {'loss': loss}

  def evaluate(self, state, batch):
    return {
      'loss': jnp.mean((batch['x'] @ state['params']['w'].T - batch['y']) ** 2),
      'weight': jnp.float32(1),
    }

  def describe(self):
    return {'kind': 'regression'}

  def weights(self, state):
    return state['params']


class Numbered:
  """Batches that are a function of their position."""

  batch_size = 4

  def __init__(self, fail_at=None, pause=0.0, poison_at=None, width=5):
    self.fail_at, self.pause, self.poison_at, self.width = fail_at, pause, poison_at, width

  def describe(self):
    return {}

  def start(self, position, rows=None):
    assert rows is None or list(rows) == [0, 1, 2, 3]
    while True:
      if self.fail_at is not None and position >= self.fail_at:
        raise OSError('the disk went away')
      rng = np.random.default_rng(position)
      x = rng.standard_normal((4, 3)).astype(np.float32)
      if self.poison_at is not None and position >= self.poison_at:
        x[0, 0] = np.nan
      time.sleep(self.pause)
      yield {'x': x, 'y': np.repeat(x[:, :1], self.width, 1)}
      position += 4


def train(run_dir, **changed):
  settings = {
    'trainable': Regression(), 'batches': Numbered(), 'total_steps': STEPS, 'eval_batches': Numbered(),
    'eval_steps': 2, 'log_every': 4, 'eval_every': 8, 'checkpoint_every': 5, 'seed': 11,
  }  # fmt: skip
  return loop.train(run_dir=run_dir, **(settings | changed))


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  return jax.device_get(train(tmp_path_factory.mktemp('undisturbed')))


def same(state, other):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), other)


def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(tmp_path, undisturbed):
  with pytest.raises(loop.Interrupted, match='stopped at step 1 of 24'):
    train(tmp_path, stop_after_seconds=0)
  same(train(tmp_path), undisturbed)


def test_sigterm_saves_and_says_where(tmp_path, undisturbed):
  pause = Numbered(pause=0.05)
  timer = threading.Timer(1.5, signal.raise_signal, [signal.SIGTERM])
  timer.start()
  with pytest.raises(loop.Interrupted):
    train(tmp_path, batches=pause, total_steps=10_000)
  timer.join()
  step = restore_arrays(tmp_path)[1]
  assert 0 < step < 10_000
  # Not a multiple of checkpoint_every is needed for the save: the last step itself is there.
  assert json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[-1])['step'] <= step


def test_an_error_in_the_data_surfaces_and_loses_at_most_one_interval(tmp_path, undisturbed):
  with pytest.raises(OSError, match='the disk went away'):
    train(tmp_path, batches=Numbered(fail_at=4 * 13))
  assert restore_arrays(tmp_path)[1] == 10
  same(train(tmp_path), undisturbed)


def test_a_killed_process_is_resumed_to_the_same_bits(tmp_path, undisturbed):
  here = pathlib.Path(__file__).parent
  code = (
    f'import sys; sys.path.insert(0, {str(here)!r}); import test_loop as t\n'
    f't.train({str(tmp_path)!r}, batches=t.Numbered(pause=0.2))'
  )
  child = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 120
  # Killed as soon as one checkpoint is committed, in the middle of whatever comes next.
  while Checkpoints(tmp_path, read_only=True).latest() is None and time.monotonic() < deadline:
    time.sleep(0.3)
  child.kill()
  assert child.wait() == -signal.SIGKILL
  assert restore_arrays(tmp_path)[1] < STEPS
  same(train(tmp_path), undisturbed)


def test_metrics_hold_each_step_once_after_a_resume(tmp_path):
  with pytest.raises(OSError):
    train(tmp_path, batches=Numbered(fail_at=4 * 19))
  train(tmp_path)
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  # Step 15 was the last save, and the logging interval that it cut in two ends at 16.
  assert [row['step'] for row in rows if row['split'] == 'train'] == [4, 8, 12, 16, 20, 24]
  assert [row['step'] for row in rows if row['split'] == 'validation'] == [8, 16, 24]
  assert all(np.isfinite(row['loss']) for row in rows)


def test_checkpoints_are_not_overwritten_by_the_next_steps(tmp_path):
  # Every step is saved while the next one, which is given its buffers, already runs.
  train(tmp_path, checkpoint_every=1, keep=30, total_steps=12)
  root = jax.random.key(11)
  trainable = Regression()
  batches = Numbered().start(0)
  first = next(batches)
  state = trainable.init(jax.random.fold_in(root, 0), first)
  step = jax.jit(trainable.step)
  saved = Checkpoints(tmp_path)
  whole = {'trainable': state, 'guard': Guard().init()}
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), whole)
  batch = first
  for n in range(12):
    state, _ = step(state, batch, jax.random.fold_in(jax.random.fold_in(root, 1), n))
    batch = next(batches)
    restored, about = saved.restore(shapes, n + 1)
    assert (about['step'], about['position']) == (n + 1, 4 * (n + 1))
    # Another program than the loop's, so equal to rounding; the next step's values are far from these.
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      restored['trainable'],
      jax.device_get(state),
    )


def test_another_architecture_is_refused(tmp_path):
  train(tmp_path, total_steps=5)
  with pytest.raises(errors.BundleError, match='does not fit this configuration'):
    train(tmp_path, trainable=Regression(width=6), batches=Numbered(width=6), eval_batches=None)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(tmp_path):
  with pytest.raises(errors.InputError, match='5 steps in a row from step'):
    train(tmp_path, batches=Numbered(poison_at=4 * 13))
  state, step = restore_arrays(tmp_path)
  assert step == 10 and np.isfinite(state['trainable']['params']['w']).all()


def test_prefetch_keeps_order_and_ends():
  assert list(prefetch(iter([{'n': n} for n in range(20)]))) == [{'n': n} for n in range(20)]


def test_tensorboard_reads_the_events(tmp_path):
  accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator', reason='part of the extra "train"'
  )
  train(tmp_path)
  events = accumulator.EventAccumulator(str(tmp_path / 'events')).Reload()
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  ours = [(row['step'], row['loss']) for row in rows if row['split'] == 'train']
  theirs = [(event.step, event.value) for event in events.Scalars('train/loss')]
  assert [step for step, _ in ours] == [step for step, _ in theirs]
  # Events hold float32.
  np.testing.assert_allclose([v for _, v in ours], [v for _, v in theirs], rtol=1e-6)
