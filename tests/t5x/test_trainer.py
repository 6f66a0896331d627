"""T5X's own trainer on a stage, where a checkout of T5X is on the path: docs/from_t5x.md says how."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import small
from etils import epath

from v2meow_jax import cli, errors, files
from v2meow_jax.data import dataset, preparation
from v2meow_jax.streams import Stream
from v2meow_jax.t5x import checkpoint

HERE = importlib.util.find_spec('t5x')
if HERE is not None and HERE.origin is None:
  HERE = None  # a folder of that name, such as this one
SETTINGS = {
  'TransformerConfig.layers': '1',
  'TransformerConfig.width': '32',
  'TransformerConfig.heads': '2',
  'TransformerConfig.mlp': '48',
  'TransformerConfig.dropout': '0.0',
  'motion/Condition.dropout': '0.0',
  'SEMANTIC_CROP': '2',
  'BATCH_SIZE': '4',
  'PEAK_LEARNING_RATE': '0.05',
  'WARMUP_STEPS': '2',
}
STEPS = 4


class Counting:
  """An encoder whose elements tell their clip and time."""

  needs = 'audio'

  def __init__(self, stream: Stream):
    self.stream = stream
    self.identity = {'encoder': 'counting', 'stream': stream.name}

  def encode_clip(self, clip):
    index = np.arange(self.stream.length(clip.duration))
    return (index[:, None] + int(clip.start)) % 50 + np.zeros(self.stream.width)


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp('dataset')
  rows = [
    dataset.Clip(f'c{n}', f's{n}', float(n), 9.0, 'validation' if n % 4 == 3 else 'train', audio='none')
    for n in range(8)
  ]
  files.write_lines(path / 'clips.jsonl', [vars(row) for row in rows])
  streams = (Stream('video/motion', 'embedding', 4, 14), Stream('audio/semantic', 'tokens', 25, 1, 512))
  preparation.prepare_streams(path, [Counting(stream) for stream in streams], processes=1, clips_a_part=4)
  return path


def given(**more):
  return [f'--gin.{name}={value}' for name, value in (SETTINGS | more).items()]


@pytest.fixture(scope='module')
def theirs(directory, tmp_path_factory):
  """A model_dir of T5X's train.py, and what it logged."""
  if HERE is None:
    pytest.skip('T5X is not on the path')
  model_dir = tmp_path_factory.mktemp('t5x')
  root = pathlib.Path(next(iter(HERE.submodule_search_locations))).parent
  more = {
    'MODEL_DIR': repr(str(model_dir)),
    'DATASET_DIR': repr(str(directory)),
    'TRAIN_STEPS': str(STEPS),
    'train.eval_period': str(STEPS),
    'Settings.eval_steps': '2',
    'train.stats_period': '1',
    'utils.SaveCheckpointConfig.period': str(STEPS),
  }
  command = [sys.executable, '-m', 't5x.train', f'--gin_search_paths={small.ROOT / "gin"},{root}']
  command += ['--gin_file=t5x/tiny_semantic.gin', *given(**more), '--alsologtostderr']
  told = subprocess.run(
    command, cwd=model_dir, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True
  )
  assert told.returncode == 0, told.stderr[-3000:]
  return model_dir, told.stderr


def logged(text, collection, name):
  """Values of a metric by step, of what clu's logging writer says."""
  found = {}
  for line in text.splitlines():
    if f'collection={collection} ' in line and f' {name}=' in line:
      step = int(line.split('] [')[-1].split(']')[0])
      found[step] = float(line.split(f' {name}=')[1].split(',')[0])
  return found


@pytest.mark.slow
def test_t5x_trains_a_stage_and_ours_goes_on_alike(theirs, directory, tmp_path, capsys):
  model_dir, text = theirs
  tokens = 4 * 50
  losses = {n: loss / tokens for n, loss in logged(text, 'train', 'cross_ent_loss').items()}
  assert sorted(losses) == [1, 2, 3, 4] and losses[4] < losses[1]
  recipe = ['models/tiny.gin', 'tasks/tiny_semantic.gin', 'runs/train_stage.gin']
  flags = [f'--gin_file={path}' for path in recipe] + given(
    DATASET_DIR=repr(str(directory)),
    TOTAL_STEPS=str(STEPS),
    OPTIMIZER='@adafactor()',
    SCHEDULE='@warmup_rsqrt()',
  )
  assert (
    cli.main(['t5x', 'import', str(model_dir / 'checkpoint_0'), f'--out={tmp_path / "run"}', *flags]) == 0
  )
  assert 'arrays of Adafactor matched' in capsys.readouterr().out
  more = [f'--gin.MODEL_DIR={str(tmp_path / "run")!r}']
  more += ['--gin.Settings.log_every=1', '--gin.Settings.eval_steps=2']
  assert cli.main(['train', *flags, *more]) == 0
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  ours = {row['step']: row['loss'] for row in rows if row['split'] == 'train'}
  np.testing.assert_allclose([ours[n] for n in losses], list(losses.values()), rtol=1e-5)
  evaluated = logged(text, 'training_eval/v2meow_semantic', 'loss_per_nonpadding_target_token')[STEPS]
  found = next(row['loss'] for row in reversed(rows) if row['split'] == 'validation')
  np.testing.assert_allclose(found, evaluated, rtol=1e-5)
  # Parameters and moments after the last step, array by array.
  back = f'--out={tmp_path / "back"}'
  assert cli.main(['t5x', 'export', str(tmp_path / 'run'), back, f'--summed_tokens={tokens}']) == 0
  one, other = checkpoint.read(model_dir), checkpoint.read(epath.Path(tmp_path / 'back'))
  assert set(one.arrays) == set(other.arrays) and one.step == other.step == STEPS
  their, own = one.read(one.arrays), other.read(other.arrays)
  for name, value in their.items():
    np.testing.assert_allclose(own[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(HERE is None, reason='T5X is not on the path')
def test_predictions_and_scores_are_the_stages():
  jax, model = importlib.import_module('jax'), importlib.import_module('v2meow_jax.t5x.model')
  partitioner = importlib.import_module('t5x.partitioning').PjitPartitioner(num_partitions=1)
  stage, config = small.make_stages(small.make_codec())[1]
  made = model.StageModel(stage, config, None, partitioner, sampling=model.Sampling(temperature=0.0))
  batch = small.random_batch(stage, 3)
  shapes = {name: value.shape for name, value in batch.items()}
  variables = made.get_initial_variables(jax.random.key(0), shapes)
  params = variables['params']
  plain = jax.tree.map(np.asarray, params.unfreeze())
  scores = jax.jit(made.score_batch)(params, batch)
  wanted = made.trainable.score_batch(jax.tree.map(jax.numpy.asarray, plain), batch).sum((1, 2))
  np.testing.assert_allclose(scores, wanted, rtol=1e-5)
  loss, _ = made.eval_fn(params, batch)
  np.testing.assert_allclose(loss, -scores.sum(), rtol=1e-5)
  tokens, _ = jax.jit(made.predict_batch_with_aux)(params, batch)
  known = np.zeros((3, 0, stage.target.depth), np.int32)
  keys = jax.random.split(jax.random.key(0), 3)
  greedy = model.Sampling(temperature=0.0)
  here = small.decode_crop(
    made.trainable.model, jax.tree.map(jax.numpy.asarray, plain), batch, known, keys, greedy
  )
  np.testing.assert_array_equal(tokens, here)


@pytest.mark.skipif(HERE is not None, reason='T5X is on the path')
def test_without_t5x_one_sentence_says_what_is_missing():
  pytest.importorskip('seqio', reason='SeqIO is part of the extra "train"')
  with pytest.raises(errors.ConfigError, match='needs t5x; put a checkout'):
    importlib.import_module('v2meow_jax.t5x.model')
