"""A run whose data and checkpoints lie on an object store is the run that a disk has seen."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from etils import epath
from own import Own

from v2meow_jax import stores
from v2meow_jax.data import preparation, table
from v2meow_jax.streams import Stream
from v2meow_jax.training.checkpoints import restore_arrays

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')

STREAMS = (Stream('video/motion', 'embedding', 4, 14), Stream('audio/semantic', 'tokens', 25, 1, 16))


def make(directory):
  directory.mkdir(parents=True, exist_ok=True)
  clips = [
    table.Clip(f'c{n}', f's{n}', float(n), 8.0, ('train', 'validation')[n % 10 == 9], audio='a')
    for n in range(30)
  ]
  table.write(directory, clips)
  preparation.prepare_streams(directory, [Own(stream) for stream in STREAMS], processes=1)
  return directory


def train(run, dataset, steps):
  """`v2meow train` as a process of its own; what it said."""
  settings = {
    'MODEL_DIR': f'"{run}"', 'DATASET_DIR': f'"{dataset}"', 'semantic/Stream.codes': 16, 'BATCH_SIZE': 4,
    'TransformerConfig.layers': 1, 'TransformerConfig.width': 12, 'TransformerConfig.mlp': 16,
    'SEMANTIC_CROP': 2, 'WARMUP_STEPS': 2, 'TOTAL_STEPS': 8, 'Settings.total_steps': steps,
    'Settings.checkpoint_every': 4, 'Settings.log_every': 1, 'Settings.eval_every': 6,
    'Settings.eval_steps': 1,
  }  # fmt: skip
  command = [sys.executable, '-m', 'v2meow_jax', 'train', '--gin_file=recipes/tiny_semantic.gin']
  command += [f'--gin.{name}={value}' for name, value in settings.items()]
  # Compiled programs are kept where they are by default.
  variables = {name: value for name, value in os.environ.items() if name != 'JAX_COMPILATION_CACHE_DIR'}
  done = subprocess.run(
    command,
    capture_output=True,
    text=True,
    timeout=300,
    env=variables | {'JAX_PLATFORMS': 'cpu'},
  )
  assert done.returncode == 0, done.stderr
  return done.stderr


def losses(run):
  lines = (epath.Path(run) / 'metrics.jsonl').read_text().splitlines()
  return {(row['step'], row['split']): row['loss'] for row in map(json.loads, lines)}


@pytest.fixture(scope='module')
def local(tmp_path_factory):
  folder = tmp_path_factory.mktemp('local')
  make(folder / 'data')
  train(folder / 'run', folder / 'data', 8)
  return folder / 'run'


@pytest.mark.slow
def test_a_run_reads_and_writes_there_as_here(bucket, local, tmp_path):
  address = bucket[0]
  dataset = make(stores.address(f'{address}/data'))
  # Orbax writes runs to Google's stores alone.
  run = f'{address}/run' if address.startswith('gs') else str(tmp_path / 'run')
  bucket[1].share = 0.05  # of the answers fail
  try:
    train(run, dataset, 6)
    train(run, dataset, 8)
  finally:
    bucket[1].share = 0.0
  assert losses(run) == losses(local)
  ours, theirs = (restore_arrays(epath.Path(place))[0] for place in (run, local))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  if stores.is_remote(run):
    # The second start, wherever it is, compiles nothing that the first has.
    assert list((epath.Path(run) / 'compiled').iterdir())
