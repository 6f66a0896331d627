"""`v2meow train` on a recipe: without TensorFlow, through SeqIO, killed and resumed, and a codec."""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from v2meow_jax.training.checkpoints import Checkpoints, restore_arrays

# The import system does not find TensorFlow and what needs it: a machine with the base install.
REFUSE = (
  'from importlib.machinery import PathFinder\n'
  'found = PathFinder.find_spec\n'
  'gone = ("tensorflow", "seqio", "tensorflow_datasets", "tensorboard")\n'
  'def find(name, *rest):\n'
  '  return None if name.partition(".")[0] in gone else found(name, *rest)\n'
  'PathFinder.find_spec = staticmethod(find)\n'
)
RUN = 'import sys\nfrom v2meow_jax import cli\nsys.exit(cli.main(["train", *sys.argv[1:]]))\n'

SMALL = (
  '--gin_file=recipes/tiny_semantic.gin',
  '--gin.semantic/Stream.codes=16',
  '--gin.TransformerConfig.layers=1',
  '--gin.TransformerConfig.width=12',
  '--gin.TransformerConfig.mlp=16',
  '--gin.SEMANTIC_CROP=2',
  '--gin.BATCH_SIZE=2',
  '--gin.WARMUP_STEPS=2',
  '--gin.TOTAL_STEPS=30',
  '--gin.Settings.checkpoint_every=3',
  '--gin.Settings.eval_every=15',
  '--gin.Settings.eval_steps=1',
)


def command(run, dataset, *arguments, code=RUN):
  paths = (f'--gin.MODEL_DIR="{run}"', f'--gin.DATASET_DIR="{dataset}"')
  return [sys.executable, '-c', code, *SMALL, *paths, *arguments]


def finish(*arguments, **options):
  done = subprocess.run(command(*arguments, **options), capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def undisturbed(small_dataset, tmp_path_factory):
  run = tmp_path_factory.mktemp('runs') / 'undisturbed'
  finish(run, small_dataset, code=REFUSE + RUN)
  return run


def same(run, other):
  ours, theirs = restore_arrays(run), restore_arrays(other)
  assert ours[1] == theirs[1] == 30
  jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])


def test_a_run_is_its_directory_and_needs_no_tensorflow(undisturbed):
  names = {path.name for path in undisturbed.iterdir()}
  assert names == {'checkpoints', 'config.gin', 'metrics.jsonl', 'model.json'}
  assert 'TransformerConfig.width = 12' in (undisturbed / 'config.gin').read_text()
  about = json.loads((undisturbed / 'model.json').read_text())
  assert about['kind'] == 'stage' and about['data']['video/motion']['encoder'] == 'motion'
  rows = [json.loads(line) for line in (undisturbed / 'metrics.jsonl').read_text().splitlines()]
  losses = [row['loss'] for row in rows if row['split'] == 'validation']
  assert len(losses) == 2 and losses[1] < losses[0] < 2 * np.log(16)


@pytest.mark.slow
def test_seqio_trains_to_the_same_bits(undisturbed, small_dataset, tmp_path):
  finish(tmp_path / 'run', small_dataset, '--gin_file=runs/seqio.gin')
  same(tmp_path / 'run', undisturbed)


def test_a_killed_run_is_resumed_to_the_same_bits(undisturbed, small_dataset, tmp_path):
  run = tmp_path / 'run'
  child = subprocess.Popen(command(run, small_dataset), stderr=subprocess.DEVNULL)
  deadline = time.monotonic() + 120
  while child.poll() is None and time.monotonic() < deadline:
    if (run / 'checkpoints').exists() and Checkpoints(run, read_only=True).latest() is not None:
      child.kill()
    time.sleep(0.01)
  child.wait()
  assert restore_arrays(run)[1] <= 30
  finish(run, small_dataset)
  same(run, undisturbed)


def test_time_that_is_up_is_told_by_the_exit_status(small_dataset, tmp_path):
  arguments = command(tmp_path / 'run', small_dataset, '--gin.Settings.stop_after_seconds=0')
  done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ)
  assert done.returncode == 75
  assert 'stopped at step 1 of 30' in done.stderr and 'Traceback' not in done.stderr


def test_a_codec_trains_from_the_same_dataset(small_dataset, tmp_path):
  arguments = (
    '--gin.SAMPLE_RATE=8000', '--gin.SpectralConfig.window=640', '--gin.SpectralConfig.spectrum_hop=160',
    '--gin.SpectralConfig.width=8', '--gin.SpectralConfig.encoder_blocks=1',
    '--gin.SpectralConfig.decoder_blocks=1', '--gin.QuantizerConfig.codes=16', '--gin.CROP_SECONDS=1',
    '--gin.BATCH_SIZE=2', '--gin.TOTAL_STEPS=4', '--gin.WARMUP_STEPS=1',
    '--gin.CodecTrainable.warmup_steps=2',
    '--gin.CodecTrainable.windows=(512,)', '--gin.Settings.eval_steps=1',
  )  # fmt: skip
  paths = (f'--gin.MODEL_DIR="{tmp_path / "run"}"', f'--gin.DATASET_DIR="{small_dataset}"')
  done = subprocess.run(
    [sys.executable, '-c', RUN, '--gin_file=recipes/tiny_codec.gin', *arguments, *paths],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  state, step = restore_arrays(tmp_path / 'run')
  assert step == 4 and np.abs(state['trainable']['books']['vectors']).sum() > 0
