"""Bad steps: none of them changes a bit; a run goes back, goes on, gives up and resumes as documented."""

import contextlib
import json
import math
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import walking

from v2meow_jax import errors
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import checkpoints, loop
from v2meow_jax.training.checkpoints import Checkpoints, restore_arrays
from v2meow_jax.training.guard import Guard

SEED = 7


class Walk(walking.Walk):
  """Whose evaluation tells where it is."""

  def evaluate(self, state, batch):
    return {'loss': state['at'].sum().astype(jnp.float32), 'weight': jnp.float32(1)}


class Counting:
  """Batch b is made of its number; those of `bad` are poisoned, and `fail` is one that cannot be read."""

  batch_size = 2

  def __init__(self, bad=(), kind='loss', value=np.nan, fail=None):
    self.bad, self.kind, self.value, self.fail, self.starts = set(bad), kind, value, fail, []

  def describe(self):
    return {}

  def batch(self, number):
    row = {'loss': 1 + number / 64, 'grad': 1.0}
    if number in self.bad:
      row[self.kind] = self.value
    x = np.arange(2 * number, 2 * number + 2, dtype=np.int32)
    return {'x': x, **{name: np.full(2, value, np.float32) for name, value in row.items()}}

  def start(self, position, rows=None):
    self.starts.append(position)
    while True:
      assert position % 2 == 0
      if self.fail is not None and position == 2 * self.fail:
        raise OSError('the disk went away')
      yield self.batch(position // 2)
      position += 2


def expected(counted):
  """The state after the updates (number of the step from 0, number of the batch)."""
  return walking.walked(SEED, counted)


def train(run_dir, batches, **changed):
  settings = {
    'trainable': Walk(), 'total_steps': 15, 'log_every': 1, 'checkpoint_every': 3, 'seed': SEED,
    'keep': 50,
  }  # fmt: skip
  return jax.device_get(loop.train(run_dir=run_dir, batches=batches, **(settings | changed)))


def same(state, other):
  jax.tree.map(np.testing.assert_array_equal, state, other)


def lines(run_dir):
  return [json.loads(line) for line in (run_dir / 'metrics.jsonl').read_text().splitlines()]


def saved_steps(run_dir):
  return sorted(int(path.name) for path in (run_dir / 'checkpoints').iterdir() if path.name.isdigit())


def bits(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


BAD = [
  ('loss', np.nan), ('loss', np.inf), ('loss', -np.inf), ('grad', np.nan), ('grad', np.inf), ('loss', 40.0),
]  # fmt: skip


@pytest.mark.parametrize(('kind', 'value'), BAD)
def test_a_bad_step_leaves_every_leaf_bit_for_bit(kind, value):
  guard = Guard(explosion=10, memory=2)
  state = {
    'f': jnp.array([0.0, -0.0, np.nan, 1e-45], jnp.float32),
    'h': jnp.arange(3, dtype=jnp.bfloat16),
    'b': jnp.array([True, False]),
    'i': (jnp.int32(4), jnp.uint8(7)),
  }

  def function(state, batch, rng):
    del rng
    # Everything changes, and what is not finite reaches the state.
    poison = (batch['loss'] * batch['grad']).astype(jnp.float32)
    new = {
      'f': state['f'] + 1 + poison,
      'h': state['h'] * 2 + poison.astype(jnp.bfloat16) + 1,
      'b': ~state['b'],
      'i': (state['i'][0] + 1, state['i'][1] + jnp.uint8(1)),
    }
    return new, {'loss': batch['loss'], 'grad_norm': batch['grad']}

  step = jax.jit(lambda whole, batch: guard.step(function, whole, batch, None))
  whole = {'trainable': state, 'guard': guard.init()}
  good = {'loss': jnp.float32(4), 'grad': jnp.float32(1)}
  for _ in range(2):
    before = whole
    whole, metrics = step(whole, good)
    assert (metrics['skipped'], metrics['bad']) == (0, 0)
    assert all(a != b for a, b in zip(bits(whole['trainable']), bits(before['trainable']), strict=True))
  before = whole
  for number in (1, 2):
    whole, metrics = step(whole, good | {kind: jnp.float32(value)})
    assert (metrics['skipped'], metrics['bad']) == (1, number)
    assert bits(whole['trainable']) == bits(before['trainable'])
  assert [whole['guard'][name] for name in ('mean', 'seen')] == [4.0, 2]
  whole, metrics = step(whole, good)
  assert (metrics['skipped'], metrics['bad'], whole['guard']['bad']) == (0, 0, 0)


def test_an_explosion_is_measured_by_the_mean_of_the_good_losses_once_enough_were_seen():
  guard = Guard(explosion=3, memory=4)
  step = jax.jit(lambda w, loss: guard.step(lambda s, b, r: (s + 1, {'loss': b}), w, loss, None))
  whole, mean, seen = {'trainable': jnp.int32(0), 'guard': guard.init()}, 0.0, 0
  # The second, third and fourth are thrice the mean and more, but not enough was seen by then.
  losses = [1.0, 5.0, 9.5, 30.0, 34.0, 40.0, 103.0, 60.0, 1e9, np.nan, 20.0, 87.0, 131.0]
  skipped = []
  for loss in losses:
    bad = not math.isfinite(loss) or (seen >= 4 and loss >= 3 * mean)
    if not bad:
      mean += (loss - mean) / min(seen + 1, 4)
      seen += 1
    whole, metrics = step(whole, jnp.float32(loss))
    assert metrics['skipped'] == bad, loss
    skipped.append(bad)
    # float32 against Python's float64, some ten operations.
    np.testing.assert_allclose(whole['guard']['mean'], mean, rtol=1e-5)
  assert (whole['trainable'], whole['guard']['seen']) == (seen, seen)
  assert [losses[n] for n, bad in enumerate(skipped) if bad] == pytest.approx(
    [103, 1e9, np.nan, 131], nan_ok=True
  )


def test_without_an_explosion_factor_only_what_is_not_finite_is_bad():
  guard = Guard(explosion=0, memory=1)
  step = jax.jit(lambda w, loss: guard.step(lambda s, b, r: (s + 1, {'loss': b}), w, loss, None))
  whole = {'trainable': jnp.int32(0), 'guard': guard.init()}
  for loss in (1.0, 1e30, -5.0, np.nan, 0.0):
    whole, metrics = step(whole, jnp.float32(loss))
    assert metrics['skipped'] == math.isnan(loss)
  assert whole['trainable'] == 4


@pytest.mark.parametrize(('kind', 'value'), [BAD[0], BAD[4], BAD[5]])
@pytest.mark.parametrize('log_every', [1, 5])
def test_one_poisoned_batch_is_as_if_its_step_had_not_been(tmp_path, kind, value, log_every):
  batches = Counting({7}, kind, value)
  final = train(tmp_path, batches, log_every=log_every, guard=Guard(memory=4))
  # The step keeps its number and its key, and the data goes on.
  same(final, expected([(n, n) for n in range(15) if n != 7]))
  assert sum(line['skipped'] for line in lines(tmp_path)) == 1
  for line in lines(tmp_path):
    shown = range(line['step'] - log_every, line['step'])
    losses = [1 + n / 64 for n in shown if n != 7 or log_every == 1]
    if log_every > 1 or line['step'] != 8:  # where nothing else is in the interval the bad loss is shown
      # Means of five float32.
      np.testing.assert_allclose(line['loss'], np.mean(losses), rtol=1e-6)
  assert batches.starts == [0, 0]


def test_bad_steps_that_are_not_in_a_row_never_go_back(tmp_path):
  bad = {3, 4, 6, 7, 9, 10}
  batches = Counting(bad)
  same(
    train(tmp_path, batches, guard=Guard(patience=3)), expected([(n, n) for n in range(15) if n not in bad])
  )
  assert batches.starts == [0, 0]


def test_nothing_is_saved_amid_bad_steps(tmp_path):
  bad = {4, 5, 8}
  train(tmp_path, Counting(bad), checkpoint_every=1, log_every=0)
  saved = saved_steps(tmp_path)
  assert {1, 2, 3, 4, 15} <= set(saved) and not {n + 1 for n in bad} & set(saved)
  with contextlib.closing(Checkpoints(tmp_path, read_only=True)) as made:
    whole = {'trainable': Walk().init(None, None), 'guard': Guard().init()}
    for step in saved:
      state, about = made.restore(checkpoints.abstract(whole), step)
      assert (about['step'], about['position'], state['guard']['bad']) == (step, 2 * step, 0)
      same(jax.device_get(state['trainable']), expected([(n, n) for n in range(step) if n not in bad]))


def rewound(log_every):
  """Poisoned batches, the batch that comes after going back, and the updates that count in the end.

  Step 7 is made, and the last checkpoint is of step 6. Where each step is logged the fifth bad one is seen
  at once. Otherwise two more are dispatched by then (loop.AHEAD), and given up with the rest.
  """
  after = 12 if log_every else 12 + loop.AHEAD
  counted = [(n, n) for n in range(6)] + [(n, n + after - 6) for n in range(6, 15)]
  return range(7, after), after, counted


@pytest.mark.parametrize('log_every', [1, 4, 0])
def test_bad_steps_in_a_row_go_back_to_the_checkpoint_and_on_with_the_next_data(tmp_path, log_every):
  bad, after, counted = rewound(log_every)
  batches = Counting(bad)
  with pytest.warns(UserWarning, match='5 bad steps in a row from step 8 on, .*; going back to step 6'):
    final = train(tmp_path, batches, log_every=log_every)
  same(final, expected(counted))
  assert batches.starts == [0, 0, 2 * after]
  assert 9 in saved_steps(tmp_path) and restore_arrays(tmp_path)[1] == 15


def test_where_the_steps_dispatched_meanwhile_are_good_it_does_not_go_back(tmp_path):
  batches = Counting(range(7, 12))
  final = train(tmp_path, batches, log_every=0, checkpoint_every=100)
  same(final, expected([(n, n) for n in range(15) if not 7 <= n < 12]))
  assert batches.starts == [0, 0]


def test_metrics_hold_no_line_of_the_steps_that_were_given_up(tmp_path):
  bad, _, counted = rewound(1)
  with pytest.warns(UserWarning, match='going back'):
    train(tmp_path, Counting(bad), eval_batches=Counting(), eval_steps=1, eval_every=7)
  found = lines(tmp_path)
  rows = [line for line in found if line['split'] == 'train']
  assert [row['step'] for row in rows] == list(range(1, 16))
  assert all(row['skipped'] == 0 for row in rows)
  # A loss names its batch: exactly in float32.
  assert [row['loss'] for row in rows] == [1 + batch / 64 for _, batch in counted]
  validated = [(row['step'], row['loss']) for row in found if row['split'] == 'validation']
  assert validated == [(n, float(expected(counted[:n])['at'].sum())) for n in (7, 14, 15)]


# Killed right after going back, before anything else is saved; and after the next checkpoint.
@pytest.mark.parametrize('later', [1, 5])
@pytest.mark.parametrize('log_every', [1, 0])
def test_a_kill_after_going_back_changes_no_bit(tmp_path, later, log_every):
  bad, after, counted = rewound(log_every)
  with pytest.warns(UserWarning, match='going back'), pytest.raises(OSError, match='the disk went away'):
    train(tmp_path, Counting(bad, fail=after + later), log_every=log_every)
  assert restore_arrays(tmp_path)[1] == (6 if later == 1 else 9)
  same(train(tmp_path, Counting(bad), log_every=log_every), expected(counted))
  assert [line['step'] for line in lines(tmp_path)] == (list(range(1, 16)) if log_every else [15])


class Stopping(Partitioner):
  """Asks to stop right before the step on batch 10."""

  def shard(self, batch, batch_size=None):
    if batch['x'][0] == 20:
      signal.raise_signal(signal.SIGTERM)
    return super().shard(batch, batch_size)


@pytest.mark.parametrize('bad', [range(0), range(7, 12)], ids=['good', 'bad'])
def test_a_run_that_is_stopped_amid_bad_steps_ends_with_the_same_bits(tmp_path, bad):
  with pytest.raises(loop.Interrupted):
    train(tmp_path, Counting(bad), partitioner=Stopping())
  same(train(tmp_path, Counting(bad)), expected(rewound(1)[2] if bad else [(n, n) for n in range(15)]))


def test_after_so_many_times_it_stops_and_keeps_the_first_bad_batch(tmp_path):
  bad = [*range(7, 12), *range(14, 19), *range(21, 40)]
  batches = Counting(bad, 'grad', np.inf)
  with pytest.warns(UserWarning, match='going back'), pytest.raises(errors.InputError) as told:
    train(tmp_path, batches, total_steps=40)
  # Back to 6 at batch 12; steps 7 and 8 good, from 9 on bad, back to 6 at batch 19; 7 and 8 good, 9 on bad.
  assert batches.starts == [0, 0, 24, 38, 42]
  message = str(told.value)
  assert '5 steps in a row from step 9 on' in message and 'bad_batch_step_9_host_0.npz' in message
  assert '\n' not in message
  (path,) = tmp_path.glob('bad_batch_step_*')
  with np.load(path) as kept:
    wanted = batches.batch(21)
    assert set(kept) == set(wanted)
    for name, value in wanted.items():
      assert kept[name].dtype == value.dtype
      np.testing.assert_array_equal(kept[name], value)
  state, step = restore_arrays(tmp_path)
  assert step == 6
  same(state['trainable'], expected([(n, n) for n in range(6)]))


def test_without_a_checkpoint_to_go_back_to_it_stops_at_once(tmp_path):
  batches = Counting(range(1, 30))
  with pytest.raises(errors.InputError, match='5 steps in a row from step 2'):
    train(tmp_path, batches, checkpoint_every=0)
  with np.load(tmp_path / 'bad_batch_step_2_host_0.npz') as kept:
    np.testing.assert_array_equal(kept['x'], [2, 3])
  assert not saved_steps(tmp_path)


def test_zero_rewinds_and_a_patience_of_one_stop_at_the_first_bad_step(tmp_path):
  with pytest.raises(errors.InputError, match='1 steps in a row from step 8'):
    train(tmp_path, Counting({7}), guard=Guard(patience=1, rewinds=0))
  assert saved_steps(tmp_path) == [3, 6]


@pytest.mark.parametrize('wrong', [{'memory': 0}, {'patience': 0}, {'rewinds': -1}, {'explosion': -1.0}])
def test_settings_that_mean_nothing_are_refused(wrong):
  with pytest.raises(errors.ConfigError, match='Guard'):
    Guard(**wrong)


def test_a_step_that_raises_an_alarm_is_undone_and_the_alarm_named(tmp_path):
  class Alarmed(Walk):
    def step(self, state, batch, rng):
      state, metrics = super().step(state, batch, rng)
      on = (metrics['loss'] > 1 + 8.5 / 64).astype(jnp.float32)  # a loss names its batch
      return state, metrics | {'alarm/codebooks': on, 'alarm/other': jnp.float32(0)}

  with (
    pytest.warns(UserWarning, match='from step 10 on, as there was an alarm of codebooks; going back'),
    pytest.raises(
      errors.InputError, match='from step 10 on were skipped, as there was an alarm of codebooks;'
    ),
  ):
    loop.train(
      run_dir=tmp_path,
      trainable=Alarmed(),
      batches=Counting(),
      total_steps=30,
      checkpoint_every=3,
      log_every=1,
      seed=SEED,
    )
  same(restore_arrays(tmp_path)[0]['trainable'], expected([(n, n) for n in range(9)]))
