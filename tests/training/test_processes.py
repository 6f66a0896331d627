"""Runs of two and four real processes: stopped, killed, resumed on another number, and one of them lost."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from v2meow_jax.data.batches import ClipBatches
from v2meow_jax.streams import Stream
from v2meow_jax.training.checkpoints import Checkpoints, restore_arrays

PROGRAM = pathlib.Path(__file__).with_name('process_program.py')
DEVICES, BATCH, STEPS = 4, 8, 40
SETTINGS = (
  '--gin_file=recipes/tiny_semantic.gin',
  '--gin.semantic/Stream.codes=16',
  '--gin.TransformerConfig.layers=1',
  '--gin.TransformerConfig.width=12',
  '--gin.TransformerConfig.mlp=16',
  '--gin.SEMANTIC_CROP=2',
  f'--gin.BATCH_SIZE={BATCH}',
  '--gin.WARMUP_STEPS=2',
  f'--gin.TOTAL_STEPS={STEPS}',
  '--gin.Settings.checkpoint_every=4',
  '--gin.Settings.log_every=4',
  '--gin.Settings.eval_every=20',
  '--gin.Settings.eval_steps=1',
)


class Started:
  """The processes of a run, each with its share of four devices."""

  def __init__(self, count, run, dataset, folder, *arguments, of_the_last=()):
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    paths = (f'--gin.MODEL_DIR="{run}"', f'--gin.DATASET_DIR="{dataset}"')
    self.run, self.reads, self.errors, self.processes = run, [], [], []
    for index in range(count):
      many = (
        f'--coordinator_address=localhost:{port}',
        f'--process_count={count}',
        f'--process_index={index}',
        '--heartbeat_seconds=8',
      )
      self.reads.append(folder / f'reads_{count}_{index}_{port}')
      self.errors.append(folder / f'errors_{count}_{index}_{port}')
      own = of_the_last if index == count - 1 else ()
      command = [sys.executable, PROGRAM, self.reads[-1], *SETTINGS, *paths, *arguments, *own]
      with open(self.errors[-1], 'w') as file:
        self.processes.append(
          subprocess.Popen(
            [*command, *(many if count > 1 else ())],
            stderr=file,
            env=os.environ | {'JAX_NUM_CPU_DEVICES': str(DEVICES // count), 'JAX_PLATFORMS': 'cpu'},
          )
        )

  def wait(self) -> list[int]:
    """Exit statuses."""
    try:
      return [process.wait(180) for process in self.processes]
    finally:
      for process in self.processes:
        process.kill()

  def told(self, index=0) -> str:
    return self.errors[index].read_text()

  def wait_for_checkpoint(self, step=0):
    """Returns once a checkpoint after `step` is complete."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
      assert all(process.poll() is None for process in self.processes), self.told()
      if (self.run / 'checkpoints').exists():
        with contextlib.closing(Checkpoints(self.run, read_only=True)) as saved:
          if (saved.latest() or 0) > step:
            return
      time.sleep(0.2)
    raise AssertionError('no checkpoint was made')

  def examples(self) -> list[tuple[int, str]]:
    """(number, clip and start) of what was read, over all processes; evaluation not among it."""
    lines = [line for path in self.reads for line in path.read_text().splitlines()]
    return sorted((int(line.split()[0]), line.split(maxsplit=1)[1]) for line in lines)


@pytest.fixture(scope='module')
def undisturbed(small_dataset, tmp_path_factory):
  folder = tmp_path_factory.mktemp('two')
  started = Started(2, folder / 'run', small_dataset, folder)
  assert started.wait() == [0, 0], started.told(0) + started.told(1)
  return started


def state_of(run):
  state, step = restore_arrays(run)
  assert step == STEPS
  return state


@pytest.mark.slow
def test_each_process_reads_its_own_half_of_every_batch(undisturbed):
  numbers = [{int(line.split()[0]) for line in path.read_text().splitlines()} for path in undisturbed.reads]
  used = set(range(STEPS * BATCH))
  assert numbers[0] & numbers[1] == set()
  assert used <= numbers[0] | numbers[1]
  assert {n % BATCH for n in numbers[0]} == set(range(BATCH // 2))


def test_only_the_first_process_writes_and_shows_progress(undisturbed):
  assert f'step {STEPS}/{STEPS}' in undisturbed.told(0)
  assert 'step' not in undisturbed.told(1)
  lines = (undisturbed.run / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == STEPS // 4 + STEPS // 20


def test_killed_and_resumed_on_two_processes_ends_with_the_same_bits(undisturbed, small_dataset, tmp_path):
  killed = Started(2, tmp_path / 'run', small_dataset, tmp_path)
  killed.wait_for_checkpoint()
  for process in killed.processes:
    process.kill()
  killed.wait()
  with contextlib.closing(Checkpoints(tmp_path / 'run', read_only=True)) as saved:
    assert 0 < saved.latest() < STEPS
  resumed = Started(2, tmp_path / 'run', small_dataset, tmp_path)
  assert resumed.wait() == [0, 0], resumed.told()
  jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path / 'run'), state_of(undisturbed.run))


@pytest.mark.slow
@pytest.mark.parametrize('place', [0.2, 0.8])
def test_what_one_process_cannot_read_of_its_part_is_damaged_for_all(place, small_dataset, tmp_path):
  # Parameters are split over both processes, and each reads its own part of an array.
  split = ('--gin.train.partitioner=@Partitioner()', '--gin.Partitioner.ici_mesh_shape=(1, 4, 1)')
  whole = Started(2, tmp_path / 'whole', small_dataset, tmp_path, *split)
  assert whole.wait() == [0, 0], whole.told()
  begun = Started(2, tmp_path / 'run', small_dataset, tmp_path, *split)
  begun.wait_for_checkpoint(4)
  for process in begun.processes:
    process.kill()
  begun.wait()
  with contextlib.closing(Checkpoints(tmp_path / 'run', read_only=True)) as saved:
    newest = saved.latest()
  files = (tmp_path / 'run' / 'checkpoints' / str(newest) / 'state' / 'd').iterdir()
  path = max(files, key=lambda file: file.stat().st_size)
  data = bytearray(path.read_bytes())
  at = int(place * len(data))
  data[at : at + 16] = bytes(byte ^ 0xFF for byte in data[at : at + 16])
  path.write_bytes(data)
  resumed = Started(2, tmp_path / 'run', small_dataset, tmp_path, *split)
  assert resumed.wait() == [0, 0], resumed.told()
  assert (tmp_path / 'run' / f'damaged_{newest}').exists()
  jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path / 'run'), state_of(tmp_path / 'whole'))


@pytest.mark.slow
def test_four_processes_then_two_then_one_see_the_examples_that_would_have_come(
  undisturbed, small_dataset, tmp_path
):
  run, seen, position = tmp_path / 'run', [], 0
  for count in (4, 2, 1):
    started = Started(count, run, small_dataset, tmp_path)
    if count > 1:
      started.wait_for_checkpoint(position // BATCH)
      # One process is told to stop; all of them do, at the same step.
      started.processes[-1].send_signal(signal.SIGTERM)
      assert started.wait() == [75] * count, started.told()
      assert all('run the same command to go on' in started.told(i) for i in range(count))
    else:
      assert started.wait() == [0], started.told()
    _, step = restore_arrays(run)
    read = started.examples()
    for n in range(BATCH):  # a run looks at the first batch before it begins
      read.remove(next(example for example in read if example[0] == n))
    # What was read ahead and not trained on is read again.
    seen += [example for example in read if position <= example[0] < step * BATCH]
    position = step * BATCH
  assert position == STEPS * BATCH
  batches = ClipBatches(str(small_dataset), (Stream('audio/semantic', 'tokens', 25, 1, 16),), 2, BATCH)
  source = batches.source()
  # The stage's slowest stream is video/motion, whose grid is coarser.
  source.grid = 4
  expected = []
  for n in range(STEPS * BATCH):
    clip, start = source.place(n)
    expected.append((n, f'{source.dataset.clips[clip].id} {start}'))
  assert seen == expected
  # float32: sums in another order, through 40 updates.
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3)  # noqa: E731
  jax.tree.map(close, state_of(run)['trainable']['params'], state_of(undisturbed.run)['trainable']['params'])


LOSSES = [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)]


JOINED = """
import os, signal, sys, time
from v2meow_jax import terminal
from v2meow_jax.training import distributed
def main(arguments):
  distributed.initialize(False, sys.argv[1], 1, 0)
  time.sleep(1)  # by when a listener of JAX's own would have settled
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(10)
sys.exit(terminal.run(main, [], terminal.AGAIN))
"""


def test_a_signal_between_joining_and_the_first_step_is_heard():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    address = f'localhost:{free.getsockname()[1]}'
  done = subprocess.run([sys.executable, '-c', JOINED, address], capture_output=True, text=True)
  assert done.returncode == 75, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('number', LOSSES, ids=['dies', 'hangs'])
def test_a_process_that_is_lost_ends_the_run_in_time_and_it_can_go_on(number, small_dataset, tmp_path):
  run = tmp_path / 'run'
  endless = ('--gin.TOTAL_STEPS=100000', '--gin.Settings.eval_every=0')
  started = Started(2, run, small_dataset, tmp_path, *endless)
  started.wait_for_checkpoint()
  began = time.monotonic()
  started.processes[1].send_signal(number)
  assert started.processes[0].wait(60) == 76
  # Silence of 8 s, looked for every 2 s, and some for the machine.
  assert time.monotonic() - began < 30
  started.processes[1].kill()
  told = started.told(0)
  assert 'go on from the last checkpoint' in told.splitlines()[-1] and 'Traceback' not in told
  _, step = restore_arrays(run)
  resumed = Started(1, run, small_dataset, tmp_path, *endless, f'--gin.Settings.stop_after_seconds={2}')
  assert resumed.wait() == [75], resumed.told()
  assert restore_arrays(run)[1] > step


# Hosts agree, or nothing starts.


def both_refuse(started, *words):
  begun = time.monotonic()
  statuses = [process.wait(timeout=120) for process in started.processes]
  told = [path.read_text() for path in started.errors]
  assert statuses == [2, 2], told
  assert all(word in text for text in told for word in words), told
  assert not any('Traceback' in text for text in told)
  assert time.monotonic() - begun < 100
  assert not list(pathlib.Path(started.run).glob('checkpoints/*'))


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ('--gin.PEAK_LEARNING_RATE=0.5', ('differ in PEAK_LEARNING_RATE: 0.002 and 0.5',)),
    pytest.param(
      '--gin.Settings.eval_every=7',
      ('differ in Settings.eval_every: 20 and 7',),
      marks=pytest.mark.slow,
    ),
    ('--gin.DATASET_DIR="nowhere"', ('nowhere: no clips.jsonl',)),
  ],
  ids=['learning rate', 'interval', 'no data'],
)
def test_processes_that_differ_do_not_start_and_all_leave_with_the_sentence(
  small_dataset, tmp_path, arguments, words
):
  started = Started(2, tmp_path / 'run', small_dataset, tmp_path, of_the_last=(arguments,))
  both_refuse(started, *words)
