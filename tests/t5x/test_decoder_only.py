"""T5X's decoder-only network as a stage: the same logits and loss, or a refusal that says why."""

import contextlib
import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from v2meow_jax import cli, errors
from v2meow_jax.bundles import read_run
from v2meow_jax.data.batches import stage_batches
from v2meow_jax.models import attention
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.t5x import checkpoint, decoder_only, exporting, importing
from v2meow_jax.t5x.importing import Options
from v2meow_jax.training.checkpoints import Checkpoints
from v2meow_jax.training.guard import Guard

CONFIG = TransformerConfig(
  2, 16, 4, 32, positions='relative', causal_buckets=True, time_aligned=False, qk_norm=False
)
TOKENS = Stream('audio/semantic', 'tokens', 12, 1, 24)
STAGE = Stage('alone', (), Target(TOKENS), 1)
MOTION = Stream('video/motion', 'embedding', 4, 3)


def trainable(stage=STAGE, **changed):
  return StageTrainable(stage, dataclasses.replace(CONFIG, **changed), optax.identity())


def imported(source, out, made=None, options=None):
  made = made or trainable()
  batches = stage_batches(made.stage, 'none', 2)
  return importing.import_run(checkpoint.read(source), made, batches, Guard(), out, options or Options())


def batch_of(tokens, stream=TOKENS):
  return {
    stream.name: tokens.reshape(len(tokens), -1, stream.width),
    f'{stream.name}/mask': np.ones((len(tokens), tokens.size // len(tokens) // stream.width), bool),
    f'{stream.name}/offset': np.zeros(len(tokens), np.float32),
  }


def test_buckets_are_t5xs(expected):
  found = attention.relative_bucket(jnp.asarray(expected['distances']), after=False)
  np.testing.assert_array_equal(found, expected['buckets'])


@pytest.mark.parametrize('form', ['msgpack', 'orbax'])
def test_logits_and_loss_are_t5xs(model_dirs, expected, tmp_path, form):
  lines = imported(model_dirs[form], tmp_path / 'run')
  assert lines[0] == '23 arrays matched' and 'begins anew' in lines[-2]
  run, made = read_run(tmp_path / 'run'), trainable()
  assert run.kind == 'stage' and run.step == 0
  batch = batch_of(expected['tokens'])
  weights = jax.tree.map(jnp.asarray, run.weights)
  logits = made.model.apply({'params': weights}, batch)[:, :, 0]
  np.testing.assert_allclose(logits, expected['logits'], atol=1e-5)
  loss, metrics = made.eval_fn(weights, batch)
  np.testing.assert_allclose(loss * expected['tokens'].size, expected['loss'], rtol=1e-6)
  np.testing.assert_allclose(metrics['accuracy'], expected['accuracy'], rtol=1e-6)


def test_levels_are_slices_of_t5xs_vocabulary_and_conditions_are_new(model_dirs, tmp_path):
  stream = Stream('audio/acoustic', 'tokens', 6, 2, 8)
  with_motion = Stage('two', (Condition(MOTION),), Target(stream), 1)
  lines = imported(model_dirs['msgpack'], tmp_path / 'run', trainable(with_motion), Options(offset=3))
  assert '3 new:' in lines and any('condition_video_motion/projection' in line for line in lines)
  weights = read_run(tmp_path / 'run').weights
  # Level k's code c is token 3 + 8 k + c, in T5X's own table.
  source = checkpoint.read(model_dirs['msgpack'])
  table, head = (
    source.read([f'target/{name}'])[f'target/{name}']
    for name in (decoder_only.EMBEDDING, decoder_only.LOGITS)
  )
  for level in range(2):
    for code in range(8):
      token = 3 + 8 * level + code
      np.testing.assert_array_equal(weights['embedding'][level, code], table[token])
      np.testing.assert_array_equal(weights['head'][level, :, code], head[:, token])
  np.testing.assert_array_equal(weights['first'], table[0])


def test_queries_are_times_the_root_of_the_head_dimension(model_dirs, tmp_path):
  imported(model_dirs['msgpack'], tmp_path / 'run')
  ours = read_run(tmp_path / 'run').weights['transformer']['layer_1']
  name = 'target/decoder/layers_1/self_attention/query/kernel'
  theirs = checkpoint.read(model_dirs['msgpack']).read([name])[name]
  np.testing.assert_array_equal(ours['query']['kernel'], 2 * theirs)


REFUSED = {
  'heads': (dict(heads=8), {}, 'TransformerConfig.heads=4'),
  'buckets': (dict(causal_buckets=False), {}, 'TransformerConfig.causal_buckets=True'),
  'positions': (
    dict(positions='rope', causal_buckets=False), {}, "positions='relative' --gin.TransformerConfig.causal",
  ),
  'normalised queries': (dict(qk_norm=True), {}, 'TransformerConfig.qk_norm=False'),
  'no gate': (dict(gated=False), {}, 'TransformerConfig.gated=True'),
  'layers': (dict(layers=3), {}, 'TransformerConfig.layers=2'),
  'activation': ({}, dict(activations=('relu', 'linear')), 'a stage computes gelu,linear only'),
  'vocabulary': ({}, dict(offset=1), '24 tokens'),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_what_would_be_another_network_is_refused_by_name(model_dirs, tmp_path, case):
  changed, options, told = REFUSED[case]
  with pytest.raises(errors.BundleError) as caught:
    imported(model_dirs['msgpack'], tmp_path / 'run', trainable(**changed), Options(**options))
  assert told in str(caught.value) and 'checkpoint_2' in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_a_delayed_target_is_refused(model_dirs, tmp_path):
  delayed = Stage('d', (), Target(Stream('audio/acoustic', 'tokens', 6, 2, 8), pattern='delay'), 1)
  with pytest.raises(errors.BundleError, match='delay'):
    imported(model_dirs['msgpack'], tmp_path / 'run', trainable(delayed))


def test_an_activation_that_nobody_tells_is_asked_for(own_model_dir, tmp_path):
  source = own_model_dir('msgpack')
  (source / 'config.gin').unlink()
  with pytest.raises(errors.BundleError, match='--mlp_activations'):
    imported(source, tmp_path / 'run')
  imported(source, tmp_path / 'run', options=Options(activations=('gelu', 'linear')))


def target_of(model_dirs):
  found = checkpoint.read(model_dirs['msgpack'])
  return found.read([name for name in found.arrays if name.startswith('target/')])


def written(folder, arrays):
  checkpoint.write(folder, 2, arrays)
  return folder


def test_a_tree_that_lacks_a_layer_or_is_of_another_network_is_refused(model_dirs, tmp_path):
  whole = target_of(model_dirs)
  trees = {
    'there is no decoder/layers_0/mlp/wo': {k: v for k, v in whole.items() if 'layers_0/mlp/wo/' not in k},
    'encoder-decoder': whole | {'target/encoder/encoder_norm/scale': np.ones(16, np.float32)},
    'there is no decoder/layers_0 ': {k: v for k, v in whole.items() if 'layers_' not in k},
    'several types': whole | {'target/decoder/decoder_norm/scale': np.ones(16, jnp.bfloat16)},
    'int32, which no parameter is': {k: v.astype(np.int32) for k, v in whole.items()},
    'no parameters': {'state/other': np.ones(3)},
  }
  for number, (told, tree) in enumerate(trees.items()):
    source = written(tmp_path / f'model_{number}', tree)
    with pytest.raises(errors.BundleError, match=told):
      imported(source, tmp_path / 'run', options=Options(activations=('gelu', 'linear')))
  assert not (tmp_path / 'run').exists()


def test_tied_embeddings_become_a_head_of_their_own(model_dirs, expected, tmp_path):
  whole = target_of(model_dirs)
  head = whole.pop(f'target/{decoder_only.LOGITS}')
  # A table whose transpose, divided by the root of the width, is that head.
  whole[f'target/{decoder_only.EMBEDDING}'] = np.ascontiguousarray(head.T) * 4
  whole['flax_mutables/batch_stats/mean'] = np.zeros(3, np.float32)
  lines = imported(
    written(tmp_path / 'model', whole), tmp_path / 'run', options=Options(activations=('gelu', 'linear'))
  )
  assert any(line.startswith('1 arrays of flax_mutables are left') for line in lines)
  weights = read_run(tmp_path / 'run').weights
  np.testing.assert_array_equal(weights['head'][0], head)
  np.testing.assert_array_equal(weights['embedding'][0], head.T * 4)


def test_bfloat16_becomes_float32_without_loss(model_dirs, tmp_path):
  imported(model_dirs['bfloat16'], tmp_path / 'run')
  for leaf in jax.tree.leaves(read_run(tmp_path / 'run').weights):
    assert leaf.dtype == np.float32
    np.testing.assert_array_equal(leaf, leaf.astype(jnp.bfloat16).astype(np.float32))


def test_a_run_that_is_there_is_left_alone(model_dirs, tmp_path):
  imported(model_dirs['msgpack'], tmp_path / 'run')
  before = sorted(path.name for path in (tmp_path / 'run').iterdir())
  with pytest.raises(errors.BundleError, match='already'):
    imported(model_dirs['msgpack'], tmp_path / 'run')
  assert sorted(path.name for path in (tmp_path / 'run').iterdir()) == before
  shutil.rmtree(tmp_path / 'run')


def test_an_imported_run_goes_back_bit_for_bit(model_dirs, tmp_path):
  imported(model_dirs['msgpack'], tmp_path / 'run')
  path, notes = exporting.export_decoder_only(tmp_path / 'run', tmp_path / 'back')
  assert 'vocab_size=24' in notes[0] and 'optimizer' in notes[1] and len(notes) == 2
  found, whole = checkpoint.read(path), target_of(model_dirs)
  back = found.read([name for name in found.arrays if name.startswith('target/')])
  assert set(back) == set(whole)
  for name, value in whole.items():
    assert (back[name].dtype, back[name].tobytes()) == (value.dtype, value.tobytes()), name


def own_run(path, stage, **changed):
  """A run with random parameters, that no T5X has seen."""
  made, rng = trainable(stage, **changed), np.random.default_rng(3)
  shapes = nn.unbox(jax.eval_shape(made.init, jax.random.key(0), stage.empty_batch()))
  state = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)
  path.mkdir()
  with contextlib.closing(Checkpoints(path)) as saved:
    saved.save(7, {'trainable': state, 'guard': Guard().init()}, 0, made.layout)
  (path / 'model.json').write_text(json.dumps(made.describe()))
  return made


TWO = Stage('two', (), Target(Stream('audio/acoustic', 'tokens', 6, 2, 12)), 1)


def test_a_stage_of_ours_comes_back_from_t5xs_names_bit_for_bit(tmp_path):
  made = own_run(tmp_path / 'run', TWO, scan_layers=True)
  with pytest.raises(errors.BundleError, match='--token_offset=1'):
    exporting.export_decoder_only(tmp_path / 'run', tmp_path / 'model')
  assert not (tmp_path / 'model').exists()
  path, notes = exporting.export_decoder_only(tmp_path / 'run', tmp_path / 'model', offset=3)
  assert path.name == 'checkpoint_7' and any('15 tokens that are not of the level' in note for note in notes)
  table = checkpoint.read(path).read([f'target/{decoder_only.EMBEDDING}'])
  assert table[f'target/{decoder_only.EMBEDDING}'].shape == (27, 16)
  imported(path, tmp_path / 'back', made, Options(activations=('gelu', 'linear'), offset=3))
  before, after = (read_run(tmp_path / name).weights for name in ('run', 'back'))
  jax.tree.map(np.testing.assert_array_equal, before, after)


KEPT_BACK = {
  'conditions': (Stage('c', (Condition(MOTION),), Target(TOKENS), 1), {}, 'conditions (video/motion)'),
  'a delay': (
    Stage('d', (), Target(Stream('audio/acoustic', 'tokens', 6, 2, 8), pattern='delay'), 1), {}, "'delay'",
  ),
  'rotary positions': (
    STAGE, dict(positions='rope', causal_buckets=False), "TransformerConfig.positions='relative' ",
  ),
  'buckets after the query': (STAGE, dict(causal_buckets=False), 'TransformerConfig.causal_buckets=True'),
  'normalised queries': (STAGE, dict(qk_norm=True), 'TransformerConfig.qk_norm=False'),
}  # fmt: skip


@pytest.mark.parametrize('case', KEPT_BACK)
def test_a_stage_that_t5x_would_read_as_another_network_is_refused(tmp_path, case, capsys):
  stage, changed, told = KEPT_BACK[case]
  (tmp_path / 'run').mkdir()
  about = trainable(stage, **changed).describe()
  (tmp_path / 'run' / 'model.json').write_text(json.dumps(about))
  argv = ['t5x', 'export', str(tmp_path / 'run'), f'--out={tmp_path / "model"}', '--decoder_only']
  assert cli.main(argv) == 2
  said = capsys.readouterr().err.strip()
  assert told in said and '\n' not in said and str(tmp_path / 'run') in said
  assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize(
  'flags',
  [['--token_offset=1'], ['--decoder_only', '--summed_tokens=4'], ['--decoder_only', '--token_offset=-1']],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, flags, capsys):
  with pytest.raises(SystemExit, match='2'):
    cli.main(['t5x', 'export', str(tmp_path), f'--out={tmp_path / "model"}', *flags])
  assert '--token_offset' in capsys.readouterr().err or '--summed_tokens' in flags[-1]
