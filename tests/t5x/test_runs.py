"""A run as a T5X checkpoint and back: the same bits, in either layout."""

import contextlib
import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import small

from v2meow_jax import errors
from v2meow_jax.data.batches import stage_batches
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.t5x import checkpoint, exporting, importing, matching
from v2meow_jax.t5x.importing import Options
from v2meow_jax.training.checkpoints import Checkpoints, restore_arrays
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.optimizers import adafactor, adamw, warmup_constant

STAGE = Stage(
  'two',
  (Condition(Stream('video/motion', 'embedding', 4, 3)),),
  Target(Stream('audio/acoustic', 'tokens', 6, 2, 12), pattern='delay'),
  1,
)
CONFIG = TransformerConfig(2, 16, 2, 24)


def trainable(scan=False, optimizer=None, **changed):
  optimizer = optimizer or adafactor(warmup_constant(0.1, 5), min_dim_size_to_factor=8)
  return StageTrainable(STAGE, dataclasses.replace(CONFIG, scan_layers=scan, **changed), optimizer)


def make_run(path, made, steps=2):
  """A run of a few steps, as training saves one."""
  batch = small.random_batch(STAGE, 2)
  state = nn.unbox(jax.jit(made.init)(jax.random.key(0), batch))
  step = jax.jit(made.step)
  for number in range(steps):
    state, _ = step(state, batch, jax.random.key(number))
  path.mkdir()
  with contextlib.closing(Checkpoints(path)) as checkpoints:
    whole = {'trainable': state, 'guard': Guard().init()}
    checkpoints.save(steps, whole, 2 * steps, made.layout)
  (path / 'model.json').write_text(json.dumps(made.describe()))
  return path


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  root = tmp_path_factory.mktemp('runs')
  return {scan: make_run(root / str(scan), trainable(scan)) for scan in (False, True)}


def imported(source, out, made, **options):
  batches = stage_batches(STAGE, 'none', 2)
  return importing.import_run(checkpoint.read(source), made, batches, Guard(), out, Options(**options))


def arrays(run):
  return small.flat(jax.tree.map(np.asarray, restore_arrays(run)[0]['trainable']))


@pytest.mark.parametrize('scan', [False, True], ids=['unrolled', 'scanned'])
def test_a_run_comes_back_from_t5x_bit_for_bit(runs, tmp_path, scan):
  path, notes = exporting.export(runs[scan], tmp_path / 'model')
  assert path.name == 'checkpoint_2' and notes == []
  lines = imported(path, tmp_path / 'run', trainable(scan))
  assert lines[-2].endswith('arrays of Adafactor matched') and 'step 2, example 4' in lines[-1]
  before, after = (
    jax.tree.leaves(restore_arrays(runs[scan])[0]),
    jax.tree.leaves(restore_arrays(tmp_path / 'run')[0]),
  )
  for one, other in zip(before, after, strict=True):
    assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def test_a_run_comes_back_in_the_other_layout(runs, tmp_path):
  path, _ = exporting.export(runs[True], tmp_path / 'model')
  imported(path, tmp_path / 'run', trainable(False))
  turned = trainable(True).relayout(restore_arrays(runs[True])[0]['trainable']['params'], 'unrolled')
  found = restore_arrays(tmp_path / 'run')[0]['trainable']['params']
  jax.tree.map(np.testing.assert_array_equal, turned, found)


def test_the_tree_is_t5xs(runs, tmp_path):
  found = checkpoint.read(exporting.export(runs[True], tmp_path)[0])
  assert found.step == 2
  name = 'transformer/layers/up/kernel'
  assert found.arrays[f'target/{name}'].shape == (2, 16, 24)
  moments = found.part(f'state/param_states/{name}')
  shapes = {part: about.shape for part, about in moments.items()}
  # Of a stacked array T5X's rows are along `embed`.
  assert shapes == {'v_row': (2, 16), 'v_col': (2, 24), 'v': (1,), 'm': (1,)}
  down = found.part('state/param_states/transformer/layers/down/kernel')
  assert down['v_row'].shape == (2, 16) and down['v_col'].shape == (2, 24)


@pytest.mark.slow
def test_another_optimizer_begins_anew(runs, tmp_path):
  path, _ = exporting.export(runs[False], tmp_path / 'model')
  lines = imported(path, tmp_path / 'run', trainable(optimizer=adamw(1e-3)))
  assert 'not Adafactor' in lines[-2] and 'step 0' in lines[-1]
  other = make_run(tmp_path / 'adamw', trainable(optimizer=adamw(1e-3)), steps=1)
  _, notes = exporting.export(other, tmp_path / 'other')
  assert len(notes) == 1 and 'not Adafactor' in notes[0]


def test_rules_rename_leave_and_report(runs, tmp_path):
  path, _ = exporting.export(runs[False], tmp_path / 'model')
  rules = matching.parse_rules([r'transformer/layer_1/(.*)=transformer/layer_0/\1', 'head='])
  lines = imported(path, tmp_path / 'run', trainable(), rules=rules)
  assert '1 new:' in lines and any('layer_1/up/kernel from transformer/layer_0/up' in line for line in lines)
  left = lines[lines.index('12 left:') :]
  assert '  head' in left and '  transformer/layer_1/up/kernel' in left
  assert 'begins anew' in lines[-2]
  before, after = arrays(runs[False]), arrays(tmp_path / 'run')
  np.testing.assert_array_equal(
    after['params/transformer/layer_1/up/kernel'], before['params/transformer/layer_0/up/kernel']
  )
  assert not np.array_equal(after['params/head'], before['params/head'])


def test_what_does_not_fit_is_refused_or_made_anew(runs, tmp_path):
  path, _ = exporting.export(runs[False], tmp_path / 'model')
  for changed, told in (
    (dict(layers=3), r'there is no transformer/layer_2/\S+ for our .* \(and \d+ more\); add --rule'),
    (dict(mlp=32), r'transformer/layer_0/\S+ is \(.*\) in the checkpoint, \(.*\) here \(and 5 more\)'),
  ):
    with pytest.raises(errors.BundleError, match=told):
      imported(path, tmp_path / 'run', trainable(**changed))
  assert not (tmp_path / 'run').exists()
  lines = imported(path, tmp_path / 'run', trainable(mlp=32), partial=True)
  assert '6 of another shape:' in lines
  with pytest.raises(errors.ConfigError, match='no array of this stage'):
    imported(path, tmp_path / 'two', trainable(), rules=[('nothing', None)])


def test_settings_that_no_shape_shows_are_compared_with_t5xs_own_record(runs, tmp_path):
  path, _ = exporting.export(runs[False], tmp_path / 'model')
  (tmp_path / 'model' / 'config.gin').write_text('v2meow_jax.TransformerConfig.heads = \\\n    4\n')
  with pytest.raises(errors.BundleError, match=r'--gin\.TransformerConfig\.heads=4'):
    imported(path, tmp_path / 'run', trainable())


@pytest.mark.parametrize('text', ['(', 'a', r'a=\1'])
def test_a_rule_that_is_none_is_told(text):
  with pytest.raises(errors.ConfigError, match='--rule'):
    matching.parse_rules([text])


def test_only_a_stage_is_exported(tmp_path):
  with pytest.raises(errors.BundleError, match=r'no model\.json'):
    exporting.export(tmp_path, tmp_path / 'out')
  (tmp_path / 'model.json').write_text('{"kind": "codec"}')
  with pytest.raises(errors.BundleError, match='codec'):
    exporting.export(tmp_path, tmp_path / 'out')


def test_moments_of_a_summed_loss_become_those_of_a_mean(runs, tmp_path):
  name = 'state/param_states/transformer/layer_0/up/kernel/v_row'
  plain, _ = exporting.export(runs[False], tmp_path / 'plain')
  path, _ = exporting.export(runs[False], tmp_path / 'model', summed=48)
  one, other = (checkpoint.read(p).read([name])[name] for p in (plain, path))
  np.testing.assert_allclose(other, one * 48**2, rtol=1e-6)
  # T5X's record: a batch of 4, of 6 frames and 2 levels.
  (tmp_path / 'model' / 'config.gin').write_text(
    'BATCH_SIZE = 4\nmodel.StageModel.loss_normalizing_factor = None\n'
  )
  lines = imported(path, tmp_path / 'run', trainable())
  assert lines[-2].endswith('of a loss summed over 48 tokens and now of their mean')
  before, after = (restore_arrays(run)[0]['trainable'] for run in (runs[False], tmp_path / 'run'))
  # Two products are rounded, and one divisor.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), after, before)
