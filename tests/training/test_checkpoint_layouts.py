"""Checkpoints of layered states go on in the other layout, single or stacked."""

import contextlib
import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

from v2meow_jax import errors
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.training import loop, optimizers
from v2meow_jax.training import run as run_lib
from v2meow_jax.training.checkpoints import Checkpoints, restore_arrays
from v2meow_jax.training.guard import Guard

MOTION, TOKENS = Stream('video/motion', 'embedding', 4, 3), Stream('audio/acoustic', 'tokens', 5, 2, 16)
STAGE = Stage('layout', (Condition(MOTION, dropout=0.2),), Target(TOKENS, (0, 1)), 2)


def same(state, other):
  jax.tree.map(np.testing.assert_array_equal, state, other)


class Tokens:
  """Examples of `STAGE` that are a function of their number."""

  batch_size = 2

  def describe(self):
    return {}

  def start(self, position, rows=None):
    while True:
      rng = np.random.default_rng(position)
      batch = {
        'video/motion': rng.standard_normal((2, 8, 3)).astype(np.float32),
        'audio/acoustic': rng.integers(0, 4, (2, 10, 2)).astype(np.int32),
      }
      for name, value in list(batch.items()):
        batch |= {f'{name}/mask': np.ones(value.shape[:2], bool), f'{name}/offset': np.zeros(2, np.float32)}
      yield batch
      position += 2


def stage_trainable(scan, optimizer=None):
  config = TransformerConfig(layers=2, width=8, heads=2, mlp=12, scan_layers=scan)
  return StageTrainable(STAGE, config, optimizer or optimizers.adamw(1e-3, clip_norm=0), ema_decay=0.9)


def train_stage(run_dir, scan, total_steps):
  settings = {'total_steps': total_steps, 'log_every': 1, 'checkpoint_every': 3, 'seed': 5}
  return jax.device_get(
    loop.train(run_dir=run_dir, trainable=stage_trainable(scan), batches=Tokens(), **settings)
  )


def opened(run_dir, trainable):
  """The state that a run begins with, without a step."""
  begun = run_lib.Run(
    run_dir, trainable, Tokens(), None, Partitioner(), run_lib.Settings(total_steps=6), Guard(), None, 5
  )
  begun.open(None, None)
  begun.checkpoints.close()
  assert begun.shardings.keys() == begun.state.keys()
  return begun.state['trainable'], begun.step


def losses(run_dir):
  rows = [json.loads(line) for line in (run_dir / 'metrics.jsonl').read_text().splitlines()]
  return [row['loss'] for row in rows]


@pytest.fixture(scope='module')
def in_one_layout(tmp_path_factory):
  """Runs of 6 steps with a checkpoint in the middle: scanned or not -> folder and final state."""
  made = {}
  for scan in (False, True):
    folder = tmp_path_factory.mktemp('scanned' if scan else 'unrolled')
    made[scan] = (folder, train_stage(folder, scan, 6))
  return made


@pytest.fixture
def halfway(in_one_layout, tmp_path):
  """Copies of those runs as they were after 3 steps."""
  for scan, (folder, _) in in_one_layout.items():
    shutil.copytree(folder, tmp_path / str(scan))
    shutil.rmtree(tmp_path / str(scan) / 'checkpoints' / '6')
  return {scan: tmp_path / str(scan) for scan in in_one_layout}


def stacked(tree):
  """Layers of an unrolled tree along a new first axis, by NumPy; everything else as it is."""
  if not isinstance(tree, dict):
    return np.asarray(tree)
  names = [f'layer_{n}' for n in range(sum(name.startswith('layer_') for name in tree))]
  rest = {name: stacked(value) for name, value in tree.items() if name not in names}
  if names:
    rest['layers'] = jax.tree.map(lambda *leaves: np.stack(leaves), *(tree[name] for name in names))
  return rest


def arrays(state):
  """Parameters, average and both moments as plain dictionaries."""
  is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)  # noqa: E731
  moments = next(filter(is_adam, jax.tree.leaves(state['opt_state'], is_leaf=is_adam)))
  return {'params': state['params'], 'ema': state['ema'], 'mu': moments.mu, 'nu': moments.nu}


@pytest.mark.parametrize(
  'scan', [True, pytest.param(False, marks=pytest.mark.slow)], ids=['scanned', 'unrolled']
)
def test_a_run_goes_on_in_the_other_layout(in_one_layout, halfway, scan):
  run = halfway[not scan]
  begun, _ = opened(run, stage_trainable(not scan))
  converted, step = opened(run, stage_trainable(scan))
  assert step == 3
  assert 'layers' in (converted if scan else begun)['params']['transformer']
  ours, theirs = (converted, begun) if scan else (begun, converted)
  same(jax.device_get(arrays(ours)), stacked(arrays(theirs)))
  before = losses(run)[:3]
  final = train_stage(run, scan, 6)
  folder, undisturbed = in_one_layout[scan]
  assert losses(run)[:3] == before
  # float32: the layouts add in another order, through three updates; Adam divides by small numbers.
  np.testing.assert_allclose(losses(run)[3:], losses(folder)[3:], rtol=1e-5)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3)  # noqa: E731
  jax.tree.map(close, final['params'], undisturbed['params'])
  # Saved in the new layout from then on.
  assert ('layers' in restore_arrays(run)[0]['trainable']['params']['transformer']) == scan


@pytest.mark.parametrize(
  'scan', [True, pytest.param(False, marks=pytest.mark.slow)], ids=['scanned', 'unrolled']
)
def test_a_factored_optimiser_changes_its_layout_too(tmp_path, scan):
  optimizer = optimizers.adafactor(1e-2)
  begun, _ = opened(tmp_path, stage_trainable(not scan, optimizer))
  with contextlib.closing(Checkpoints(tmp_path)) as made:
    whole = {'trainable': begun, 'guard': Guard().init()}
    made.save(4, whole, 8, stage_trainable(not scan).layout)
  trainable = stage_trainable(scan, optimizer)
  state, step = opened(tmp_path, trainable)
  batch = next(Tokens().start(0))
  wanted = jax.eval_shape(lambda: nn.unbox(trainable.init(jax.random.key(0), batch)))
  assert step == 4 and jax.tree.structure(state) == jax.tree.structure(wanted)
  for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
  jax.eval_shape(trainable.step, state, batch, jax.random.key(0))


def test_another_number_of_layers_is_refused_in_either_layout(halfway):
  for scan, found in (
    (False, r'layer_2/\S+ is none there and float32'),
    (True, r'layers/\S+ is .* there and'),
  ):
    trainable = stage_trainable(scan)
    trainable = dataclasses.replace(trainable, config=dataclasses.replace(trainable.config, layers=3))
    with pytest.raises(errors.BundleError, match=found):
      opened(halfway[scan], trainable)
