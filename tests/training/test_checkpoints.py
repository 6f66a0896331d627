"""Checkpoints: what is saved is what comes back, whatever happens to the buffers, the process or the disk."""

import itertools
import json
import shutil
import signal
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import walking
from orbax.checkpoint._src.path.step import Metadata
from walking import Counting, Walk

from v2meow_jax import errors
from v2meow_jax.training import checkpoints, loop
from v2meow_jax.training.checkpoints import Checkpoints, restore_arrays
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.prefetch import prefetch

SEED = 5


def expected(steps, width=3):
  """The state after `steps` steps."""
  return walking.walked(SEED, [(n, n) for n in range(steps)], width)


def train(run_dir, **changed):
  settings = {
    'trainable': Walk(), 'batches': Counting(), 'total_steps': 12, 'log_every': 1, 'checkpoint_every': 3,
    'seed': SEED,
  }  # fmt: skip
  return loop.train(run_dir=run_dir, **(settings | changed))


def some_state(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  return {
    'params': {'kernel': jax.random.normal(keys[0], (4, 3)), 'half': jnp.arange(5, dtype=jnp.bfloat16)},
    'opt_state': (jax.random.normal(keys[1], (2,)), {'count': jnp.int32(seed)}),
  }


def same(state, other):
  assert jax.tree.structure(state) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture
def saved(tmp_path):
  """A run with a complete checkpoint of step 4, and its state."""
  made = Checkpoints(tmp_path)
  made.save(4, some_state(), position=64)
  made.close()
  return tmp_path, some_state()


def test_state_step_and_position_come_back(saved):
  run_dir, state = saved
  made = Checkpoints(run_dir)
  restored, about = made.restore(checkpoints.abstract(state))
  made.close()
  assert (about['step'], about['position'], about['layout']) == (4, 64, 'unrolled')
  same(restored, state)


def test_arrays_come_back_without_knowing_what_was_saved(saved):
  run_dir, state = saved
  arrays, step = restore_arrays(run_dir)
  assert step == 4
  assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(arrays))
  np.testing.assert_array_equal(arrays['params']['kernel'], state['params']['kernel'])
  assert arrays['params']['half'].dtype == jnp.bfloat16
  # Orbax keeps a tuple as a list.
  np.testing.assert_array_equal(arrays['opt_state'][0], state['opt_state'][0])


def test_a_run_that_goes_on_can_be_read_while_it_deletes(tmp_path, monkeypatch):
  for step in (4, 6):
    made = Checkpoints(tmp_path)
    made.save(step, some_state(), position=64)
    made.close()
  timed = Metadata.commit_timestamp.fget

  def deleted_meanwhile(metadata):
    shutil.rmtree(tmp_path / 'checkpoints' / '4', ignore_errors=True)
    return timed(metadata)

  monkeypatch.setattr(Metadata, 'commit_timestamp', property(deleted_meanwhile))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert restore_arrays(tmp_path)[1] == 6
  reader = Checkpoints(tmp_path, read_only=True)
  assert reader.latest() == 6
  reader.close()


def test_the_newest_are_kept_and_each_holds_its_own_state(tmp_path):
  made = Checkpoints(tmp_path, keep=2)
  for step in (1, 2, 10):
    made.save(step, some_state(step), position=step)
  made.close()
  assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir() if path.is_dir()) == ['10', '2']
  made = Checkpoints(tmp_path, keep=2)
  assert made.latest() == 10
  for step in (2, 10):
    same(made.restore(checkpoints.abstract(some_state()), step)[0], some_state(step))
  made.close()


def test_a_step_that_is_there_is_not_written_again(saved):
  run_dir, state = saved
  made = Checkpoints(run_dir)
  made.save(4, some_state(9), position=1)
  restored, about = made.restore(checkpoints.abstract(state))
  made.close()
  assert about['position'] == 64
  same(restored, state)


def test_buffers_that_are_donated_after_the_save_do_not_reach_it(tmp_path):
  # Large enough that writing outlasts the donated step; one that copied nothing would save what comes after.
  overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
  made = Checkpoints(tmp_path, keep=5)
  for step in range(1, 5):
    state = {'x': jnp.full((1 << 20,), step, jnp.float32)}
    made.save(step, state, position=0)
    jax.block_until_ready(overwrite(state))
    assert state['x'].is_deleted()
  made.close()
  made = Checkpoints(tmp_path, keep=5)
  for step in range(1, 5):
    restored, _ = made.restore(checkpoints.abstract({'x': jnp.zeros(1 << 20)}), step)
    assert np.unique(np.asarray(restored['x'])).tolist() == [step]
  made.close()


def test_every_checkpoint_of_a_run_that_saves_each_step_is_the_recomputed_state(tmp_path):
  train(tmp_path, checkpoint_every=1, keep=20)
  made = Checkpoints(tmp_path)
  shapes = checkpoints.abstract({'trainable': Walk().init(None, None), 'guard': Guard().init()})
  for step in range(1, 13):
    restored, about = made.restore(shapes, step)
    assert (about['step'], about['position']) == (step, 2 * step)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored['trainable']), expected(step))
  made.close()


def test_a_save_that_was_cut_off_is_not_the_latest(saved):
  run_dir, state = saved
  # Orbax writes under such a name and renames it when all is there.
  shutil.copytree(run_dir / 'checkpoints' / '4', run_dir / 'checkpoints' / '9.orbax-checkpoint-tmp')
  assert restore_arrays(run_dir)[1] == 4
  made = Checkpoints(run_dir)
  assert made.latest() == 4
  same(made.restore(checkpoints.abstract(state))[0], state)
  made.close()


def test_where_nothing_was_saved_there_is_nothing_to_restore(tmp_path):
  with pytest.raises(errors.BundleError, match='there is no checkpoint'):
    restore_arrays(tmp_path)
  made = Checkpoints(tmp_path)
  assert made.latest() is None
  with pytest.raises(errors.BundleError, match='no complete checkpoint'):
    made.restore(checkpoints.abstract(some_state()))
  made.close()
  with pytest.raises(errors.BundleError, match='no complete checkpoint'):
    restore_arrays(tmp_path)


def test_the_abstract_state_has_shapes_types_and_places_but_no_values():
  state = some_state()
  for shape, leaf in zip(jax.tree.leaves(checkpoints.abstract(state)), jax.tree.leaves(state), strict=True):
    assert isinstance(shape, jax.ShapeDtypeStruct)
    assert (shape.shape, shape.dtype, shape.sharding) == (leaf.shape, leaf.dtype, leaf.sharding)


@pytest.mark.parametrize('other', [Walk(width=4), Walk(extra=True)], ids=['shape', 'one leaf more'])
def test_a_run_of_another_architecture_is_refused_and_keeps_its_checkpoints(tmp_path, other):
  train(tmp_path)
  with pytest.raises(errors.BundleError, match='does not fit this configuration') as told:
    train(tmp_path, trainable=other, total_steps=20)
  assert '\n' not in str(told.value)
  state, step = restore_arrays(tmp_path)
  assert step == 12
  np.testing.assert_array_equal(state['trainable']['at'], expected(12)['at'])


def test_a_run_that_is_refused_keeps_its_description(tmp_path):
  train(tmp_path)
  with pytest.raises(errors.BundleError):
    train(tmp_path, trainable=Walk(width=4), total_steps=20)
  assert json.loads((tmp_path / 'model.json').read_text())['width'] == 3


def test_sigterm_in_the_middle_changes_no_bit_of_the_result(tmp_path):
  def terminate(position):
    if position == 10:
      signal.raise_signal(signal.SIGTERM)

  with pytest.raises(loop.Interrupted, match='run the same command to go on'):
    train(tmp_path, batches=Counting(terminate), total_steps=1000)
  state, step = restore_arrays(tmp_path)
  assert 0 < step < 1000
  # Saved where it stopped, and not only where checkpoints are due.
  np.testing.assert_array_equal(state['trainable']['at'], expected(step)['at'])
  final = jax.device_get(train(tmp_path, total_steps=step + 5))
  jax.tree.map(np.testing.assert_array_equal, final, expected(step + 5))


def test_signals_are_as_they_were_after_a_run(tmp_path):
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  train(tmp_path, total_steps=2)
  assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_metrics_hold_one_line_a_step_after_an_error_and_a_resume(tmp_path):
  def fail(position):
    if position >= 2 * 8:
      raise OSError('the disk went away')

  with pytest.raises(OSError, match='the disk went away'):
    train(tmp_path, batches=Counting(fail))
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == list(range(1, 9))
  assert restore_arrays(tmp_path)[1] == 6  # two steps were not saved and are made again
  final = jax.device_get(train(tmp_path))
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == list(range(1, 13))
  jax.tree.map(np.testing.assert_array_equal, final, expected(12))


def test_half_a_line_of_metrics_is_dropped_on_resuming(tmp_path):
  train(tmp_path, total_steps=6)
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 5, "spl')
  train(tmp_path, total_steps=8)
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == list(range(1, 9))


def test_a_run_that_is_complete_is_returned_as_it_is(tmp_path):
  train(tmp_path)
  written = (tmp_path / 'metrics.jsonl').read_bytes()
  again = jax.device_get(train(tmp_path, batches=Counting()))
  jax.tree.map(np.testing.assert_array_equal, again, expected(12))
  assert (tmp_path / 'metrics.jsonl').read_bytes() == written


def test_a_loss_that_is_not_finite_is_refused_where_it_is_logged(tmp_path):
  with pytest.raises(errors.InputError, match='5 steps in a row from step'):
    train(tmp_path, batches=Counting(poisoned=2 * 7))
  assert restore_arrays(tmp_path)[1] == 6


def test_the_checkpoint_that_is_kept_is_from_before_the_loss_went_wrong(tmp_path):
  with pytest.raises(errors.InputError, match='5 steps in a row from step'):
    train(tmp_path, batches=Counting(poisoned=2 * 7), log_every=12)
  assert restore_arrays(tmp_path)[1] == 6


def test_prefetch_hands_over_what_came_before_an_error():
  def items():
    yield from range(3)
    raise KeyError('gone')

  taken = prefetch(items())
  assert list(itertools.islice(taken, 3)) == [0, 1, 2]
  with pytest.raises(KeyError, match='gone'):
    next(taken)


def test_prefetch_reads_no_further_than_asked_to():
  read = []

  def items():
    for n in itertools.count():
      read.append(n)
      yield n

  taken = prefetch(items(), ahead=3)
  for n in range(5):
    assert next(taken) == n
  taken.close()
  # 5 taken, 3 in the queue, one in the thread's hand, and one more if a place became free at the end.
  assert len(read) <= 10
