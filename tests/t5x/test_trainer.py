"""T5X's own trainer on a stage, where a checkout of T5X is on the path: docs/from_t5x.md says how."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from etils import epath

from v2meow_jax import cli, errors
from v2meow_jax.bundles import read_run, types
from v2meow_jax.data import preparation, table
from v2meow_jax.data.batches import stage_batches
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.t5x import checkpoint, decoder_only

HERE = importlib.util.find_spec('t5x')
if HERE is not None and HERE.origin is None:
  HERE = None  # a folder of that name, such as this one
# 128 wide: below that, T5X's Adafactor factors the tables of a level and ours does not.
SETTINGS = {
  'TransformerConfig.layers': '1',
  'TransformerConfig.width': '128',
  'TransformerConfig.heads': '2',
  'TransformerConfig.mlp': '48',
  'TransformerConfig.dropout': '0.0',
  'motion/Condition.dropout': '0.0',
  'SEMANTIC_CROP': '2',
  'BATCH_SIZE': '4',
}
LEARNING = {'PEAK_LEARNING_RATE': '0.02', 'WARMUP_STEPS': '2'}
ADAFACTOR = {'OPTIMIZER': '@adafactor()', 'SCHEDULE': '@warmup_rsqrt()'}
RECIPE = ('models/tiny.gin', 'tasks/tiny_semantic.gin', 'runs/train_stage.gin')
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
    table.Clip(f'c{n}', f's{n}', float(n), 9.0, 'validation' if n % 4 == 3 else 'train', audio='none')
    for n in range(8)
  ]
  table.write(path, rows)
  streams = (Stream('video/motion', 'embedding', 4, 14), Stream('audio/semantic', 'tokens', 25, 1, 512))
  preparation.prepare_streams(path, [Counting(stream) for stream in streams], processes=1, clips_a_part=4)
  return path


def given(**more):
  return [f'--gin.{name}={value}' for name, value in (SETTINGS | more).items()]


@pytest.fixture(scope='module')
def programs(directory, tmp_path_factory):
  """A function that runs one of T5X's programs in a folder of its own; (the folder, what it logged)."""
  if HERE is None:
    pytest.skip('T5X is not on the path')
  root = pathlib.Path(next(iter(HERE.submodule_search_locations))).parent

  def run(program, recipe, folder, devices=1, **more):
    out = tmp_path_factory.mktemp(program)
    settings = SETTINGS | {'DATASET_DIR': repr(str(directory)), folder: repr(str(out))} | more
    command = [sys.executable, '-m', f't5x.{program}', f'--gin_search_paths={small.ROOT / "gin"},{root}']
    command += ['--gin_file=t5x/tiny_semantic.gin', f'--gin_file=t5x/{recipe}.gin', '--alsologtostderr']
    command += [f'--gin.{name}={value}' for name, value in settings.items()]
    flags = f'--xla_force_host_platform_device_count={devices}'
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
    told = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-3000:]
    return out, told.stderr

  return run


def train(programs, devices=1, **more):
  """A model_dir of T5X's train.py, and what it logged."""
  return programs(
    'train',
    'pretrain',
    'MODEL_DIR',
    devices,
    **LEARNING,
    **{
      'TRAIN_STEPS': str(STEPS),
      'train.eval_period': str(STEPS),
      'train.eval_steps': '2',
      'train.stats_period': '1',
      'utils.SaveCheckpointConfig.period': str(STEPS),
    },
    **more,
  )


@pytest.fixture(scope='module')
def theirs(programs):
  return train(programs)


@pytest.fixture(scope='module')
def trained(theirs, directory, tmp_path_factory):
  """What T5X trained, as a run of ours: (the run, trainable, weights, its validation examples)."""
  out = tmp_path_factory.mktemp('ours') / 'run'
  flags = [f'--gin_file={path}' for path in RECIPE] + given(
    DATASET_DIR=repr(str(directory)), TOTAL_STEPS=str(STEPS), **LEARNING, **ADAFACTOR
  )
  assert cli.main(['t5x', 'import', str(theirs[0]), f'--out={out}', *flags]) == 0
  run = read_run(out)
  stage, config = types.stage(run.about), types.transformer(run.about)
  examples = stage_batches(stage, str(directory), 1, 'validation').source()
  batch = {name: np.stack([examples[n][name] for n in range(len(examples))]) for name in examples[0]}
  return out, StageTrainable(stage, config, optax.identity()), run.weights, batch


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
  flags = [f'--gin_file={path}' for path in RECIPE] + given(
    **LEARNING,
    DATASET_DIR=repr(str(directory)),
    **ADAFACTOR,
    TOTAL_STEPS=str(STEPS),
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
def test_a_mesh_of_four_devices_trains_to_the_same_losses(theirs, programs):
  # Two ways for the data and two for the model. Of CPUs T5X makes no such mesh by itself.
  mesh = {'num_partitions': 'None', 'model_parallel_submesh': '(1, 2)'}
  model_dir, text = train(
    programs, 4, **{f'partitioning.PjitPartitioner.{name}': value for name, value in mesh.items()}
  )
  assert 'global_mesh devices shape: (2, 2)' in text
  info = (model_dir / 'model-info.txt').read_text()
  kernel = next(line for line in info.splitlines() if 'layer_0/up/kernel ' in line)
  assert "partition spec (None, 'model')" in kernel
  for collection in ('train', 'training_eval/v2meow_semantic'):
    one, four = (logged(log, collection, 'cross_ent_loss') for log in (theirs[1], text))
    assert set(one) == set(four) and STEPS in one
    # float32: sums are split over the devices.
    np.testing.assert_allclose([four[n] for n in one], list(one.values()), rtol=1e-5)


@pytest.mark.slow
def test_t5xs_eval_gives_our_loss(theirs, trained, programs):
  out, _ = programs(
    'eval', 'eval', 'EVAL_OUTPUT_DIR', CHECKPOINT_PATH=repr(str(theirs[0] / f'checkpoint_{STEPS}'))
  )
  told = json.loads((out / 'inference_eval' / 'v2meow_semantic-metrics.jsonl').read_text())
  _, trainable, weights, batch = trained
  loss, metrics = trainable.eval_fn(jax.tree.map(jnp.asarray, weights), batch)
  assert told['step'] == STEPS
  np.testing.assert_allclose(told['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(told['bits_per_second'], metrics['bits_per_second'], rtol=1e-5)


@pytest.mark.slow
def test_t5xs_infer_scores_and_draws_for_clips_that_it_names(theirs, trained, programs, directory, tmp_path):
  run, trainable, weights, batch = trained
  params = jax.tree.map(jnp.asarray, weights)
  clips = table.ClipTable(directory, 'validation')
  source = stage_batches(trainable.stage, str(directory), 1, 'validation').source()
  named = [(clips[clip].id, float(start)) for clip, start in map(source.place, range(len(source)))]
  # One of T5X's own checkpoints, and one that v2meow wrote of the run that was made of it.
  assert cli.main(['t5x', 'export', str(run), f'--out={tmp_path / "model"}']) == 0
  places = {'score': theirs[0] / f'checkpoint_{STEPS}', 'predict': tmp_path / 'model' / f'checkpoint_{STEPS}'}
  found = {}
  for mode, path in places.items():
    more = {'infer.mode': repr(mode), 'CHECKPOINT_PATH': repr(str(path))}
    more |= {'sampling.Sampling.temperature': '0.0'} if mode == 'predict' else {}
    out, _ = programs('infer', 'infer', 'INFER_OUTPUT_DIR', **more)
    (path,) = out.glob(f'v2meow_semantic-{mode}.jsonl-00000-of-00001')
    found[mode] = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row['inputs']['clip'], row['inputs']['start']) for row in found[mode]] == named
  wanted = trainable.score_batch(params, batch).sum((1, 2))
  np.testing.assert_allclose([row['score'] for row in found['score']], wanted, rtol=1e-5)
  rows, depth = len(named), trainable.stage.target.depth
  here = small.decode_crop(
    trainable.model,
    params,
    batch,
    np.zeros((rows, 0, depth), np.int32),
    jax.random.split(jax.random.key(0), rows),
    Sampling(temperature=0.0),
  )
  np.testing.assert_array_equal([row['prediction'] for row in found['predict']], here)


@pytest.mark.slow
@pytest.mark.skipif(HERE is None, reason='T5X is not on the path')
def test_t5xs_own_network_gives_the_logits_of_a_stage_that_was_exported(tmp_path):
  checkpoints = importlib.import_module('t5x.checkpoints')
  network = importlib.import_module('t5x.examples.decoder_only.network')
  stage = Stage('alone', (), Target(Stream('audio/acoustic', 'tokens', 6, 2, 12)), 1)
  config = TransformerConfig(
    2, 32, 2, 48, positions='relative', causal_buckets=True, time_aligned=False, qk_norm=False
  )
  trainable, batch = StageTrainable(stage, config, optax.identity()), small.random_batch(stage, 2)
  weights = nn.unbox(trainable.init(jax.random.key(1), batch))['params']
  arrays = {name: np.asarray(value) for name, value in small.flat(weights).items()}
  made = decoder_only.from_stage(arrays, stage, config, offset=3)
  path = checkpoint.write(tmp_path, 0, {f'target/{name}': value for name, value in made.items()})
  params = checkpoints.load_t5x_checkpoint(str(path))['target']
  settings = decoder_only.settings_of(stage, config, 3)
  built = network.DecoderWrapper(network.TransformerConfig(**settings, dropout_rate=0.0))
  # Level k's code c is token 3 + 12 k + c; the sequence begins with token 0.
  tokens = (batch['audio/acoustic'] + 3 + 12 * np.arange(2)).reshape(2, -1)
  inputs = np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
  theirs = built.apply({'params': params}, inputs, tokens, enable_dropout=False)
  theirs = np.asarray(theirs)[..., 3:].reshape(2, 6, 2, 2, 12)
  ours = trainable.model.apply({'params': weights}, batch)
  for level in range(2):
    np.testing.assert_allclose(theirs[:, :, level, level], ours[:, :, level], atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(HERE is None, reason='T5X is not on the path')
def test_predictions_and_scores_are_the_stages():
  model = importlib.import_module('v2meow_jax.t5x.model')
  partitioner = importlib.import_module('t5x.partitioning').PjitPartitioner(num_partitions=1)
  stage, config = small.make_stages(small.make_codec())[1]
  made = model.StageModel(stage, config, None, partitioner, sampling=model.Sampling(temperature=0.0))
  batch = small.random_batch(stage, 3)
  shapes = {name: value.shape for name, value in batch.items()}
  variables = made.get_initial_variables(jax.random.key(0), shapes)
  params = variables['params']
  plain = jax.tree.map(np.asarray, params.unfreeze())
  scores = jax.jit(made.score_batch)(params, batch)
  wanted = made.trainable.score_batch(jax.tree.map(jnp.asarray, plain), batch).sum((1, 2))
  np.testing.assert_allclose(scores, wanted, rtol=1e-5)
  loss, _ = made.eval_fn(params, batch)
  np.testing.assert_allclose(loss, -scores.sum(), rtol=1e-5)
  tokens, _ = jax.jit(made.predict_batch_with_aux)(params, batch)
  known = np.zeros((3, 0, stage.target.depth), np.int32)
  keys = jax.random.split(jax.random.key(0), 3)
  greedy = model.Sampling(temperature=0.0)
  here = small.decode_crop(made.trainable.model, jax.tree.map(jnp.asarray, plain), batch, known, keys, greedy)
  np.testing.assert_array_equal(tokens, here)


@pytest.mark.skipif(HERE is not None, reason='T5X is on the path')
def test_without_t5x_one_sentence_says_what_is_missing():
  pytest.importorskip('seqio', reason='SeqIO is part of the extra "train"')
  with pytest.raises(errors.ConfigError, match='needs t5x; put a checkout'):
    importlib.import_module('v2meow_jax.t5x.model')
