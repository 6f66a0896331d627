"""Where a run's time goes, by a clock that is set by hand; traces; and storage that cannot be written to."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simple

from v2meow_jax import errors
from v2meow_jax.training import devices, health, loop
from v2meow_jax.training.tracing import ASKED

V5E, H100 = 197e12, 989e12  # the makers' data sheets, dense bfloat16


class Sum(simple.Simple):
  """Adds up its batches; `size` more numbers lie in the state for nothing."""

  def __init__(self, size=1):
    self.size = size

  def init(self, rng, batch):
    del batch
    return {'sum': jnp.zeros(()), 'more': jax.random.normal(rng, (self.size,))}

  def step(self, state, batch, rng):
    del rng
    return state | {'sum': state['sum'] + batch['x'].sum()}, {'loss': batch['x'].mean()}

  def evaluate(self, state, batch):
    return {'loss': state['sum'], 'weight': jnp.float32(1)}

  def describe(self):
    return {'kind': 'sum'}

  def weights(self, state):
    return state['sum']

  def tokens(self, batch):
    return 6

  def flops(self, batch):
    return 1e12


class Ones:
  """The same batch again and again; `at` is called with each batch's number before it is handed over."""

  batch_size = 2

  def __init__(self, at=lambda number: None):
    self.at = at

  def describe(self):
    return {}

  def start(self, position, rows=None):
    while True:
      self.at(position // 2)
      yield {'x': np.ones(2, np.float32)}
      position += 2


def train(run_dir, **changed):
  settings = {'trainable': Sum(), 'batches': Ones(), 'total_steps': 12, 'log_every': 4, 'checkpoint_every': 4}
  return loop.train(run_dir=run_dir, **(settings | changed))


class Time:
  """Stands in for `time` in the module; moves only when told to."""

  def __init__(self):
    self.now = 1000.0

  def monotonic(self):
    return self.now


@pytest.fixture
def time(monkeypatch):
  made = Time()
  monkeypatch.setattr(health, 'time', made)
  return made


class Device:
  def __init__(self, kind):
    self.device_kind = kind


# The clock and the rates; all numbers are sums of powers of two, or compared to float64's rounding.


def test_goodput_is_the_share_of_the_time_that_nothing_else_took(time):
  clock = health.Clock()
  assert clock.wall == 0
  time.now += 10
  assert (clock.wall, clock.goodput) == (10, 1)
  with clock.spending('compile'):
    time.now += 20
  with clock.spending('data'):
    time.now += 2
  time.now += 8
  with clock.spending('data'):
    time.now += 3
  clock.add('rewind', 5)
  assert clock.wall == 43
  assert clock.spent == {'compile': 20, 'data': 5, 'rewind': 5}
  np.testing.assert_allclose(clock.goodput, 13 / 43, rtol=1e-12)


def test_time_is_counted_where_an_error_ends_it(time):
  clock = health.Clock()
  with pytest.raises(KeyError), clock.spending('checkpoints'):
    time.now += 4
    raise KeyError
  assert clock.spent == {'checkpoints': 4} and clock.goodput == 0


def test_rates_are_of_the_steps_since_the_last_reading(time):
  clock = health.Clock()
  with clock.spending('compile'):
    time.now += 100
  speed = health.Speedometer(clock, 6000, 1e15, [Device('TPU v5 lite')] * 4)
  with clock.spending('data'):
    time.now += 4
  time.now += 12
  found = speed.read(8)
  # 16 s for 8 steps, 4 of them waiting; 12 of 116 s were spent in steps.
  wanted = {
    'seconds_per_step': 2.0,
    'tokens_per_second': 3000.0,
    'data_wait': 0.25,
    'goodput': 12 / 116,
    'mfu': 1e15 / 2.0 / (4 * V5E),
  }
  assert found == pytest.approx(wanted, rel=1e-12)
  # Evaluation and checkpoints are not part of a step; what came before the last reading is not either.
  time.now += 30
  with clock.spending('evaluation'):
    time.now += 50
  with clock.spending('checkpoints'):
    time.now += 7
  with clock.spending('data'):
    time.now += 10
  wanted = {
    'seconds_per_step': 4.0,
    'tokens_per_second': 1500.0,
    'data_wait': 0.25,
    'goodput': 42 / 213,
    'mfu': 1e15 / 4.0 / (4 * V5E),
  }
  assert speed.read(10) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(('kind', 'flops'), [('cpu', 1e15), ('NVIDIA H100 80GB HBM3', None)])
def test_without_a_peak_or_a_formula_there_is_no_utilisation(time, kind, flops):
  speed = health.Speedometer(health.Clock(), 6, flops, [Device(kind)])
  time.now += 3
  assert set(speed.read(1)) == {'seconds_per_step', 'tokens_per_second', 'data_wait', 'goodput'}


@pytest.mark.parametrize(
  ('kind', 'peak'),
  [
    ('TPU v4', 275e12), ('TPU v5 lite', V5E), ('TPU v5e', V5E), ('TPU v5p', 459e12), ('TPU v5', 459e12),
    ('TPU v6 lite', 918e12), ('TPU v6e', 918e12), ('NVIDIA A100-SXM4-80GB', 312e12),
    ('NVIDIA H100 80GB HBM3', H100), ('NVIDIA H200', H100), ('NVIDIA B200', 2250e12), ('NVIDIA L4', 121e12),
    ('cpu', None), ('TPU v3', None), ('NVIDIA GeForce RTX 4090', None),
  ],
)  # fmt: skip
def test_peaks_are_known_by_the_names_that_jax_gives_devices(kind, peak):
  assert devices.peak_flops(kind) == peak


@pytest.mark.parametrize('kind', ['NVIDIA L40S', 'NVIDIA L40'])
def test_a_device_that_is_merely_called_alike_has_no_peak(kind):
  # 362 and 181 TFLOP/s by its data sheets, not the L4's 121.
  assert devices.peak_flops(kind) is None


def test_a_run_writes_its_rates_and_what_it_waits_for_is_not_good(tmp_path):
  import time as real

  train(
    tmp_path, batches=Ones(lambda number: real.sleep(0.1)), total_steps=24, log_every=12, checkpoint_every=0
  )
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  for row in rows:
    # Six tokens a step, whatever the machine's speed; three batches at most were read ahead.
    assert row['tokens_per_second'] * row['seconds_per_step'] == pytest.approx(6)
    assert 0 <= row['goodput'] <= 1 and 'mfu' not in row
  assert rows[1]['data_wait'] > 0.5 and rows[1]['seconds_per_step'] > 0.09


# Traces.


def traces(run_dir):
  return sorted(path.parent for path in (run_dir / 'profile').rglob('*.xplane.pb'))


def test_a_planned_trace_is_written(tmp_path):
  train(tmp_path, profile_steps=(3, 5))
  assert len(traces(tmp_path)) == 1
  train(tmp_path / 'none')
  assert not (tmp_path / 'none' / 'profile').exists()


def test_a_trace_past_the_end_is_written_all_the_same(tmp_path):
  train(tmp_path, profile_steps=(11, 50))
  assert len(traces(tmp_path)) == 1


@pytest.mark.parametrize('steps', [(0, 3), (5, 3), (-1, -1)])
def test_steps_that_cannot_be_traced_are_refused(tmp_path, steps):
  with pytest.raises(errors.ConfigError, match='profile_steps'):
    train(tmp_path, profile_steps=steps)


def test_sigusr1_asks_for_a_trace_of_the_next_steps_and_changes_nothing_else(tmp_path, monkeypatch):
  began, ended = [], []
  start, stop = jax.profiler.start_trace, jax.profiler.stop_trace
  seen = []
  monkeypatch.setattr(jax.profiler, 'start_trace', lambda path: (began.append(seen[-1]), start(path)))
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: (ended.append(seen[-1]), stop()))

  class Partitioner(loop.Partitioner):
    def shard(self, batch, batch_size=None):
      seen.append(len(seen))  # 0: compiling; then the number of the step
      if len(seen) == 4:
        signal.raise_signal(signal.SIGUSR1)
      return super().shard(batch, batch_size)

  before = signal.getsignal(signal.SIGUSR1)
  state = train(tmp_path, partitioner=Partitioner(), total_steps=20)
  assert len(traces(tmp_path)) == 1
  # The signal came in step 3: it begins before step 4 is placed, and ends after ASKED steps.
  assert (began, ended) == ([3], [3 + ASKED])
  assert state['sum'] == 40
  assert signal.getsignal(signal.SIGUSR1) == before


def test_an_error_ends_the_trace_under_way(tmp_path):
  def fail(number):
    if number == 6:
      raise OSError('the disk went away')

  with pytest.raises(OSError, match='the disk went away'):
    train(tmp_path, batches=Ones(fail), profile_steps=(2, 10))
  assert len(traces(tmp_path)) == 1
  jax.profiler.start_trace(str(tmp_path / 'another'))  # would fail if one were still under way
  jax.profiler.stop_trace()


# Storage.

PROGRAM = """
import pathlib, sys
sys.path[:0] = sys.argv[1:3]
import test_health as t
from v2meow_jax import terminal
main = lambda argv: t.train(pathlib.Path(argv[0]), trainable=t.Sum(int(argv[1]))) and 0
sys.exit(terminal.run(main, sys.argv[3:]))
"""


def on_a_disk(prepare, size):
  """A run of `size` numbers under /mnt after shell commands, in a mount namespace of its own."""
  here = pathlib.Path(__file__).parent
  command = f'mount -t tmpfs -o size=6m none /mnt && {prepare} && exec "$@"'
  program = [sys.executable, '-c', PROGRAM, str(here), str(here.parent), '/mnt/run', str(size)]
  return subprocess.run(
    ['unshare', '-rm', 'sh', '-c', command, 'sh', *program],
    capture_output=True,
    text=True,
    env=os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3'},
  )


def can_mount():
  if not shutil.which('unshare'):
    return False
  probe = ['unshare', '-rm', 'mount', '-t', 'tmpfs', 'none', '/mnt']
  return subprocess.run(probe, capture_output=True).returncode == 0


mounts = pytest.mark.skipif(not can_mount(), reason='no mount namespaces for this user')


def told(done):
  return [line for line in done.stderr.splitlines() if not line.startswith('step ')]


@mounts
@pytest.mark.parametrize('prepare', ['true', 'mkdir /mnt/run'], ids=['no directory', 'empty directory'])
def test_a_run_directory_that_is_read_only_is_told_in_a_sentence(prepare):
  done = on_a_disk(f'{prepare} && mount -o remount,ro /mnt', 1)
  assert done.returncode == 2
  assert len(told(done)) == 1 and '/mnt/run' in told(done)[0] and 'Read-only' in told(done)[0], done.stderr


@mounts
def test_a_disk_that_is_full_is_told_in_a_sentence():
  done = on_a_disk('true', 1 << 21)  # 8 MB of random numbers, which no compression makes fit
  # Orbax's own threads print their traces before it.
  assert 'a checkpoint could not be written (no space is left on the device)' in told(done)[-1]
  assert done.returncode == 2


def test_a_file_where_the_run_directory_should_be_is_told(tmp_path):
  (tmp_path / 'run').write_text('no directory')
  with pytest.raises(OSError, match='run'):
    train(tmp_path / 'run')
