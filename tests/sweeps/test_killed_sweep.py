"""A sweep that is killed at random, again and again, ends in the table of one that was not."""

import csv
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

STEPS = 100
SWEEP = f"""
Sweep.steps = (@stage/Train(),)
Sweep.axes = (@layers/Axis(),)
layers/Axis.parameter = 'TransformerConfig.layers'
layers/Axis.values = (1, 2, 3)
stage/Train.recipes = ('recipes/nano_semantic.gin',)
stage/Train.dataset = 'DATASET'
stage/Train.settings = (
  'semantic/Stream.codes = 16', 'TransformerConfig.width = 16', 'TransformerConfig.mlp = 16',
  'SEMANTIC_CROP = 2', 'BATCH_SIZE = 2', 'WARMUP_STEPS = 2', 'TOTAL_STEPS = {STEPS}',
  'Settings.checkpoint_every = 5', 'Settings.eval_every = 20', 'Settings.eval_steps = 1',
)
"""
KILLS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL)


def command(file, out):
  return [sys.executable, '-m', 'v2meow_jax', 'sweep', str(file), f'--out={out}']


def table(out):
  with (out / 'table.csv').open() as file:
    return [{name: value for name, value in row.items() if name != 'seconds'} for row in csv.DictReader(file)]


def reached(out):
  """Steps that are saved, of all runs together."""
  steps: dict = {}
  for path in out.glob('stage/*/run/checkpoints/*'):
    if path.name.isdigit():
      steps[path.parent] = max(steps.get(path.parent, 0), int(path.name))
  return sum(steps.values())


@pytest.mark.slow
def test_a_sweep_that_is_killed_five_times_ends_in_the_same_table(small_dataset, tmp_path):
  file = tmp_path / 'sweep.gin'
  file.write_text(SWEEP.replace('DATASET', str(small_dataset)))
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  rng = random.Random(0)
  for kind, steps in zip(KILLS, sorted(rng.sample(range(5, 3 * STEPS - 40), len(KILLS))), strict=True):
    child = subprocess.Popen(
      command(file, killed), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while reached(killed) < steps and child.poll() is None:
      time.sleep(0.05)
    time.sleep(rng.uniform(0, 1))
    child.send_signal(kind)
    _, told = child.communicate()
    print(f'{kind.name} after {reached(killed)} saved steps: exit status {child.returncode}', flush=True)
    if kind == signal.SIGKILL:
      assert child.returncode == -signal.SIGKILL
    else:
      assert child.returncode == terminal.AGAIN and 'run the same command to go on' in told
  done = subprocess.run(command(file, killed), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  done = subprocess.run(command(file, whole), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert table(killed) == table(whole) and len(table(whole)) == 3
  assert all(row['status'] == 'done' for row in table(whole))
  runs = sorted(path.relative_to(whole) for path in whole.glob('stage/*/run'))
  assert len(runs) == 3
  for run in runs:
    jax.tree.map(
      np.testing.assert_array_equal, restore_arrays(whole / run)[0], restore_arrays(killed / run)[0]
    )
  # Once more there is nothing to be done.
  logs = {path: path.stat().st_size for path in killed.glob('stage/*/log.txt')}
  assert subprocess.run(command(file, killed), capture_output=True).returncode == 0
  assert {path: path.stat().st_size for path in logs} == logs
