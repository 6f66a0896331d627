"""Checkpoints over a run's life: which are kept, what becomes of damaged ones, and checksums."""

import contextlib
import datetime
import json
import os
import shutil
import subprocess
import sys
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.checkpoint_manager as orbax_manager
import pytest
import walking
from walking import Counting

from v2meow_jax import errors
from v2meow_jax.training import checkpoints, loop
from v2meow_jax.training.checkpoints import Checkpoints, restore_arrays

SEED = 3


class Walk(walking.Walk):
  """With a leaf of half the size, and a loss that falls until 8 steps are made and then rises."""

  def init(self, rng, batch):
    return super().init(rng, batch) | {'halves': jnp.zeros(64, jnp.bfloat16)}

  def step(self, state, batch, rng):
    moved, metrics = super().step(state, batch, rng)
    return moved | {'halves': state['halves'] + 0.5}, metrics

  def evaluate(self, state, batch):
    return {'loss': jnp.abs(state['halves'][0].astype(jnp.float32) - 4), 'weight': jnp.float32(1)}


def failing(last):
  """Numbers up to a position that cannot be read."""

  def at(position):
    if position == last:
      raise OSError('the disk went away')

  return Counting(at)


def expected(steps):
  """The state after `steps` steps."""
  walked = walking.walked(SEED, [(n, n) for n in range(steps)])
  return walked | {'halves': np.full(64, steps / 2, jnp.bfloat16)}


def train(run_dir, **changed):
  settings = {
    'trainable': Walk(), 'batches': Counting(), 'total_steps': 12, 'log_every': 4, 'checkpoint_every': 3,
    'seed': SEED,
  }  # fmt: skip
  return jax.device_get(loop.train(run_dir=run_dir, **(settings | changed)))


def same(state, other):
  jax.tree.map(np.testing.assert_array_equal, state, other)


def some_state(seed=0):
  return {'kernel': jax.random.normal(jax.random.key(seed), (4, 3)), 'count': jnp.int32(seed)}


def saved_steps(run_dir):
  return sorted(int(path.name) for path in (run_dir / 'checkpoints').iterdir() if path.name.isdigit())


# Retention.


def test_the_latest_and_the_best_are_kept(tmp_path):
  made = Checkpoints(tmp_path, keep=2, keep_best=1)
  for step, loss in enumerate([0.9, 0.2, 0.5, 0.3, 0.4, 0.8], 1):
    made.save(step, some_state(step), position=step, metrics={'loss': loss, 'accuracy': 1 - step})
  made.close()
  assert saved_steps(tmp_path) == [2, 5, 6]


def test_the_best_is_kept_although_later_ones_were_not_evaluated(tmp_path):
  made = Checkpoints(tmp_path, keep=1, keep_best=2)
  losses = {2: 0.5, 4: 0.1, 6: 0.3}
  for step in range(1, 9):
    score = {'loss': losses[step]} if step in losses else None
    made.save(step, some_state(step), position=step, metrics=score)
  made.close()
  assert saved_steps(tmp_path) == [4, 6, 8]


def test_the_best_is_still_known_after_a_resume(tmp_path):
  for first in (1, 4, 7):
    made = Checkpoints(tmp_path, keep=1, keep_best=1)
    for step in range(first, first + 3):
      made.save(step, some_state(step), position=step, metrics={'loss': abs(step - 2)})
    made.close()
  assert saved_steps(tmp_path) == [2, 9]


def test_a_run_keeps_the_checkpoint_of_lowest_validation_loss(tmp_path):
  settings = {'eval_batches': Counting(), 'eval_steps': 1, 'keep_best': 1, 'keep': 2, 'checkpoint_every': 2}
  train(tmp_path, total_steps=16, eval_every=4, **settings)
  assert saved_steps(tmp_path) == [8, 14, 16]


def test_one_is_kept_for_every_so_many_hours(tmp_path, monkeypatch):
  class Clock(datetime.datetime):
    hours = 0.0

    @classmethod
    def now(cls, tz=None):
      return datetime.datetime(2030, 1, 1, tzinfo=tz) + datetime.timedelta(hours=cls.hours)

  class Module:
    datetime, timedelta, timezone = Clock, datetime.timedelta, datetime.timezone

  monkeypatch.setattr(orbax_manager, 'datetime', Module)
  made = Checkpoints(tmp_path, keep=1, keep_hours=1)
  for step, Clock.hours in enumerate([0.0, 0.4, 0.9, 1.1, 1.5, 2.0, 2.2, 2.3], 1):
    made.save(step, some_state(step), position=step)
    made.wait()
  made.close()
  # An hour and more after the last one kept, from the first on; and the latest.
  assert saved_steps(tmp_path) == [1, 4, 7, 8]


def test_hours_are_counted_over_resumes(tmp_path):
  with contextlib.closing(Checkpoints(tmp_path, keep=9)) as made:
    for step in range(1, 6):
      made.save(step, some_state(step), position=step)
  # As if they had been committed 5, 4.5, 4, 3 and 2.9 hours ago.
  for step, hours in enumerate([5, 4.5, 4, 3, 2.9], 1):
    path = tmp_path / 'checkpoints' / str(step) / '_CHECKPOINT_METADATA'
    about = json.loads(path.read_text())
    about['commit_timestamp_nsecs'] -= round(hours * 3600e9)
    path.write_text(json.dumps(about))
  with contextlib.closing(Checkpoints(tmp_path, keep=1, keep_hours=0.9)) as made:
    for step in (6, 7):
      made.save(step, some_state(step), position=step)
  assert saved_steps(tmp_path) == [1, 3, 4, 6, 7]


@pytest.mark.parametrize('wrong', [{'keep': 0}, {'keep_best': -1}, {'keep_hours': -0.5}])
def test_keeping_nothing_or_less_is_refused(tmp_path, wrong):
  with pytest.raises(errors.ConfigError, match='keep must be at least 1'):
    Checkpoints(tmp_path, **wrong)
  assert not list(tmp_path.iterdir())


# Damage.


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
  """A run of 12 steps that the data ended after 10: checkpoints of 3, 6 and 9."""
  run_dir = tmp_path_factory.mktemp('interrupted')
  with pytest.raises(OSError, match='the disk went away'):
    train(run_dir, batches=failing(20), keep=3)
  assert saved_steps(run_dir) == [3, 6, 9]
  return run_dir


def flip(path, at=None):
  data = bytearray(path.read_bytes())
  data[len(data) // 2 if at is None else at] ^= 1
  path.write_bytes(bytes(data))


def cut(path):
  os.truncate(path, path.stat().st_size // 2)


def empty(path):
  os.truncate(path, 0)


def gone(path):
  path.unlink()


def on(pattern, harm):
  def damage(step):
    found = [path for path in step.glob(pattern) if path.is_file()]
    assert found
    for path in found:
      harm(path)

  return damage


DAMAGES = {
  'an array file is cut short': on('state/d/*', cut),
  'an array file is gone': on('state/d/*', gone),
  'an array file is empty': on('state/d/*', empty),
  'an array file has a flipped bit': on('state/d/*', flip),
  "the arrays' index has a flipped bit": on('state/manifest.ocdbt', flip),
  "the arrays' index is gone": on('state/manifest.ocdbt', gone),
  "the state's metadata are cut short": on('state/_METADATA', cut),
  'step and position are gone': on('data/metadata', gone),
  'step and position are cut short': on('data/metadata', cut),
  'the state is gone': lambda step: shutil.rmtree(step / 'state'),
  'all is gone': lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_moved_aside_and_the_run_ends_with_the_same_bits(
  interrupted, tmp_path, damage
):
  run = tmp_path / 'run'
  shutil.copytree(interrupted, run)
  damage(run / 'checkpoints' / '9')
  with pytest.warns(UserWarning, match='checkpoints/9: the checkpoint is damaged') as told:
    same(train(run, keep=3), expected(12))
  assert all('\n' not in str(warning.message) for warning in told)
  assert (run / 'damaged_9').is_dir()
  # The one in use was 6: 9 is made again.
  assert saved_steps(run) == [6, 9, 12]
  for path in (interrupted / 'checkpoints' / '6').rglob('*'):
    assert path.is_dir() or path.read_bytes() == (run / path.relative_to(interrupted)).read_bytes()
  rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows] == [4, 8, 12]


def test_any_file_of_a_checkpoint_may_be_damaged(tmp_path):
  whole = tmp_path / 'whole'
  with contextlib.closing(Checkpoints(whole)) as made:
    for step in (1, 2):
      made.save(step, some_state(step), position=10 * step)
  shapes = checkpoints.abstract(some_state())
  files = [path.relative_to(whole) for path in (whole / 'checkpoints' / '2').rglob('*') if path.is_file()]
  found = set()
  for number, path in enumerate(sorted(files)):
    for harm in (gone, cut, flip):
      run = tmp_path / f'{number}_{harm.__name__}'
      shutil.copytree(whole, run)
      harm(run / path)
      with warnings.catch_warnings(), contextlib.closing(Checkpoints(run)) as made:
        warnings.simplefilter('ignore')
        state, about = made.restore(shapes)
      # Either it does not matter, or the one before is taken: in no case something else.
      same(jax.device_get(state), jax.device_get(some_state(about['step'])))
      assert about['position'] == 10 * about['step']
      assert saved_steps(run) == ([1, 2] if about['step'] == 2 else [1]), (path, harm)
      found.add(about['step'])
  assert found == {1, 2}


def test_a_flipped_bit_in_the_position_is_noticed(tmp_path):
  with contextlib.closing(Checkpoints(tmp_path)) as made:
    for step in (1, 2):
      made.save(step, some_state(step), position=1000 * step)
  path = tmp_path / 'checkpoints' / '2' / 'data' / 'metadata'
  flip(path, path.read_text().index('2000'))  # 3000
  with warnings.catch_warnings(), contextlib.closing(Checkpoints(tmp_path)) as made:
    warnings.simplefilter('ignore')
    assert made.restore(checkpoints.abstract(some_state()))[1]['position'] == 1000


def test_a_wrong_state_that_reads_well_is_told_by_its_checksum(tmp_path):
  with contextlib.closing(Checkpoints(tmp_path)) as made:
    for step in (1, 2):
      made.save(step, some_state(step), position=step)
  # Every file is whole, but the arrays are another step's.
  steps = tmp_path / 'checkpoints'
  shutil.rmtree(steps / '2' / 'state')
  shutil.copytree(steps / '1' / 'state', steps / '2' / 'state')
  with pytest.warns(UserWarning, match='checksum'):
    assert restore_arrays(tmp_path)[1] == 1
  assert saved_steps(tmp_path) == [1, 2]  # reading weights moves nothing
  with pytest.warns(UserWarning, match='checksum'), contextlib.closing(Checkpoints(tmp_path)) as made:
    assert made.restore(checkpoints.abstract(some_state()))[1]['step'] == 1
  assert saved_steps(tmp_path) == [1] and (tmp_path / 'damaged_2').is_dir()


def test_the_same_step_may_be_damaged_twice(interrupted, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(interrupted, run)
  for _ in range(2):
    on('state/d/*', flip)(run / 'checkpoints' / '9')
    with pytest.warns(UserWarning, match='damaged'), pytest.raises(OSError, match='the disk went away'):
      train(run, keep=3, batches=failing(20))
    assert saved_steps(run) == [3, 6, 9]
  same(train(run, keep=3), expected(12))


def test_where_all_are_damaged_the_run_is_refused_and_nothing_is_deleted(interrupted, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(interrupted, run)
  for step in saved_steps(run):
    on('state/d/*', flip)(run / 'checkpoints' / str(step))
  before = {path: path.read_bytes() for path in (run / 'checkpoints').rglob('*') if path.is_file()}
  unreadable = pytest.raises(errors.BundleError, match='no checkpoint can be read')
  with pytest.warns(UserWarning), unreadable as told:
    train(run)
  assert '\n' not in str(told.value) and 'restore the folder from a backup' in str(told.value)
  with pytest.warns(UserWarning), pytest.raises(errors.BundleError, match='no checkpoint can be read'):
    restore_arrays(run)
  assert {path: path.read_bytes() for path in (run / 'checkpoints').rglob('*') if path.is_file()} == before
  assert not list(run.glob('damaged_*'))


def test_a_mismatch_names_the_array_and_both_shapes(interrupted, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(interrupted, run)
  with pytest.raises(errors.BundleError) as told:
    train(run, trainable=Walk(width=4))
  assert '(trainable/at is int32 3 there and int32 4 here)' in str(told.value)
  assert saved_steps(run) == [3, 6, 9] and not list(run.glob('damaged_*'))


# Checksums.


def by_hand(flat):
  """The checksum from names and NumPy arrays: 32-bit words (small elements widened), weighted by name."""
  total = 0
  for name, value in flat.items():
    size = min(value.dtype.itemsize, 4)
    words = np.frombuffer(value.tobytes(), f'<u{size}').astype(np.uint64)
    total += (zlib.crc32(name.encode()) | 1) * int(words.sum())
  return total % 2**32


def leaves():
  rng = np.random.default_rng(1)
  return {
    'bool': rng.integers(0, 2, 24).astype(bool),
    'bfloat16': rng.standard_normal((8, 6)).astype(jnp.bfloat16),
    'float16': rng.standard_normal(16).astype(np.float16),
    'float32': rng.standard_normal((16, 3)).astype(np.float32),
    'int8': rng.integers(-128, 127, 8).astype(np.int8),
    'int32': rng.integers(-(2**31), 2**31 - 1, (8, 2)).astype(np.int32),
    'uint32': rng.integers(0, 2**32 - 1, 8).astype(np.uint32),
    'scalar': np.int32(-5),
  }


WIDE = ('float64', 'int64', 'uint64')
ON_MESHES = """
import json, sys
import jax
jax.config.update('jax_enable_x64', True)
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
sys.path.insert(0, sys.argv[1])
import test_retention as t
from v2meow_jax.training.checkpoints import digest
tree = t.leaves() | {name: t.wide_leaf(name) for name in t.WIDE}
found = []
for shape in ((1, 1), (8, 1), (4, 2), (2, 4)):
  mesh = Mesh(np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape), ('a', 'b'))
  for axis in ('a', ('a', 'b')):
    put = lambda x: jax.device_put(x, NamedSharding(mesh, P(axis) if x.ndim else P()))
    found.append(digest(jax.tree.map(put, tree)))
print(json.dumps(found))
"""


def wide_leaf(name):
  return (1e15 * np.random.default_rng(2).standard_normal((8, 4))).astype(name)


def test_the_checksum_is_the_same_on_every_mesh_and_counted_by_hand():
  flags = {'JAX_NUM_CPU_DEVICES': '8', 'JAX_PLATFORMS': 'cpu'}
  code = [sys.executable, '-c', ON_MESHES, os.path.dirname(__file__)]
  here = os.path.dirname(__file__)
  path = os.pathsep.join([here, os.path.dirname(here)])
  done = subprocess.run(code, capture_output=True, text=True, env=os.environ | flags | {'PYTHONPATH': path})
  assert done.returncode == 0, done.stderr
  wanted = by_hand(leaves() | {name: wide_leaf(name) for name in WIDE})
  assert json.loads(done.stdout) == [wanted] * 8


@pytest.mark.parametrize('name', leaves())
def test_one_flipped_bit_changes_the_checksum(name):
  tree = leaves()
  before = checkpoints.digest(jax.tree.map(jnp.asarray, tree))
  assert before == by_hand(tree)
  rng = np.random.default_rng(3)
  value = np.array(tree[name])
  for _ in range(3):
    data = bytearray(value.tobytes())
    bit = 0 if name == 'bool' else rng.integers(8)
    data[rng.integers(len(data))] ^= 1 << bit
    changed = np.frombuffer(bytes(data), value.dtype).reshape(value.shape)
    assert checkpoints.digest(jax.tree.map(jnp.asarray, tree | {name: changed})) != before


def test_the_checksum_knows_which_array_is_which():
  a, b = np.arange(4, dtype=np.int32), np.arange(4, 8, dtype=np.int32)
  digests = {checkpoints.digest(tree) for tree in ({'a': a, 'b': b}, {'a': b, 'b': a}, {'a': a, 'c': b})}
  assert len(digests) == 3


def zeroed(path):
  path.write_bytes(bytes(path.stat().st_size))


def halved(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope='module')
def large(tmp_path_factory):
  """Two checkpoints of arrays that are stored as files of their own, and the states."""
  run = tmp_path_factory.mktemp('large') / 'run'
  states = {
    step: {'a': jax.random.normal(jax.random.key(step), (300, 300)), 'n': jnp.int32(step)} for step in (1, 2)
  }
  with contextlib.closing(Checkpoints(run, keep=5)) as made:
    for step, state in states.items():
      made.save(step, state, position=step)
  return run, states


@pytest.mark.parametrize('damage', [zeroed, halved, os.unlink, lambda path: path.write_bytes(b'')])
def test_whichever_file_is_damaged_a_whole_checkpoint_is_read_with_its_bits(large, tmp_path, damage):
  run, states = large
  newest = run / 'checkpoints' / '2'
  files = [path.relative_to(run) for path in sorted(newest.rglob('*')) if path.is_file()]
  assert max((run / file).stat().st_size for file in files) > 100_000
  fell_back = 0
  for number, file in enumerate(files):
    copy = tmp_path / str(number)
    shutil.copytree(run, copy)
    damage(copy / file)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      arrays, step = restore_arrays(copy)
      np.testing.assert_array_equal(arrays['a'], states[step]['a'], err_msg=str(file))
      with contextlib.closing(Checkpoints(copy, keep=5)) as made:
        state, about = made.restore(checkpoints.abstract(states[1]))
    same(state, states[about['step']])
    fell_back += about['step'] == 1
  assert fell_back  # some of the files are needed
