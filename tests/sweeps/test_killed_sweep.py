"""A sweep that is killed at random, again and again, ends in the table of one that was not."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from v2meow_jax import terminal
from v2meow_jax.training.checkpoints import restore_arrays

SWEEP = """
Sweep.steps = (@stage/Train(),)
Sweep.seeds = (0, 1)
Sweep.axes = (@layers/Axis(),)
layers/Axis.parameter = 'TransformerConfig.layers'
layers/Axis.values = (1, 2)
stage/Train.recipes = ('recipes/nano_semantic.gin',)
stage/Train.dataset = '{dataset}'
stage/Train.settings = (
  'semantic/Stream.codes = 16', 'TransformerConfig.width = 16', 'TransformerConfig.mlp = 16',
  'SEMANTIC_CROP = 2', 'BATCH_SIZE = 2', 'WARMUP_STEPS = 2', 'TOTAL_STEPS = 200', 'train.checkpoint_every = 10',
  'train.eval_every = 40', 'train.eval_steps = 1',
)
"""


def command(file, out):
  return [sys.executable, '-m', 'v2meow_jax', 'sweep', str(file), f'--out={out}', '--jobs=2']


def table(out):
  with (out / 'table.csv').open() as file:
    return [{name: value for name, value in row.items() if name != 'seconds'} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_sweep_that_is_killed_five_times_ends_in_the_same_table(small_dataset, tmp_path):
  file = tmp_path / 'sweep.gin'
  file.write_text(SWEEP.replace('{dataset}', str(small_dataset)))
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  began = time.monotonic()
  done = subprocess.run(command(file, whole), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  taken = time.monotonic() - began
  rng = random.Random(0)
  for number, kind in enumerate(
    (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL)
  ):
    child = subprocess.Popen(
      command(file, killed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(rng.uniform(0.3, 0.9) * taken)
    child.send_signal(kind)
    _, told = child.communicate()
    under_way = sorted(path.parent.name for path in killed.glob('*/*/run') if path.is_dir())
    print(f'{number}: {kind.name}, exit status {child.returncode}; begun: {", ".join(under_way)}')
    if child.returncode == 0:
      continue  # it had ended by then
    if kind != signal.SIGKILL and 'stopped' in told:
      assert child.returncode == terminal.AGAIN and 'run the same command to go on' in told
  done = subprocess.run(command(file, killed), capture_output=True, text=True, env=os.environ)
  assert done.returncode == 0, done.stderr
  assert table(killed) == table(whole) and len(table(whole)) == 2
  assert all(row['status'] == 'done' for row in table(whole))
  runs = sorted(path.relative_to(whole) for path in whole.glob('stage/*/run'))
  assert len(runs) == 4
  for run in runs:
    jax.tree.map(
      np.testing.assert_array_equal, restore_arrays(whole / run)[0], restore_arrays(killed / run)[0]
    )
  # Once more there is nothing to be done.
  logs = {path: path.stat().st_size for path in killed.glob('stage/*/log.txt')}
  assert subprocess.run(command(file, killed), capture_output=True).returncode == 0
  assert {path: path.stat().st_size for path in logs} == logs
