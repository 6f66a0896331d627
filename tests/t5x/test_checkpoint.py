"""T5X's checkpoints, against the two formats of the same state that T5X wrote."""

import json

import ml_dtypes
import msgpack
import numpy as np
import pytest
import tensorstore as ts
from flax import serialization

from v2meow_jax import cli, errors
from v2meow_jax.t5x import checkpoint


@pytest.fixture(scope='module')
def arrays(model_dirs):
  found = checkpoint.read(model_dirs['msgpack'])
  return found.read(found.arrays)


def same(one, other):
  assert set(one) == set(other)
  for name, value in one.items():
    assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape), name
    assert value.tobytes() == other[name].tobytes(), name


def test_both_formats_hold_the_same_bits(model_dirs, arrays):
  found = checkpoint.read(model_dirs['orbax'])
  assert (found.format, found.step, found.directory.name) == ('orbax', 2, 'checkpoint_2')
  same(found.read(found.arrays), arrays)
  for name, about in found.arrays.items():
    assert (about.shape, about.dtype) == (arrays[name].shape, arrays[name].dtype)


def test_a_folder_of_orbax_is_read_by_tensorstore_alone_to_the_same_numbers(model_dirs, arrays):
  # An array straight from the database, past Orbax and past everything here.
  store = {'driver': 'ocdbt', 'base': f'file://{model_dirs["orbax"]}/checkpoint_2/state/'}
  name = 'target/decoder/layers_0/mlp/wo/kernel'
  spec = {'driver': 'zarr', 'kvstore': store | {'path': name.replace('/', '.')}}
  np.testing.assert_array_equal(ts.open(spec).result().read().result(), arrays[name])


def test_some_arrays_may_be_read(model_dirs, arrays):
  for form in ('msgpack', 'orbax'):
    found = checkpoint.read(model_dirs[form] / 'checkpoint_2')
    names = ['state/step', 'target/decoder/relpos_bias/rel_embedding']
    same(found.read(names), {name: arrays[name] for name in names})


def test_parameters_saved_as_bfloat16_are_those_rounded(model_dirs, arrays):
  found = checkpoint.read(model_dirs['bfloat16'])
  read = found.read(found.arrays)
  for name, value in arrays.items():
    wanted = value.astype(ml_dtypes.bfloat16) if name.startswith('target/') else value
    assert read[name].dtype == wanted.dtype and read[name].tobytes() == wanted.tobytes()


def test_what_is_written_is_read_again_and_has_t5xs_form(model_dirs, arrays, tmp_path):
  path = checkpoint.write(tmp_path, 2, arrays | {'flax_mutables/cache/index': np.arange(3)})
  found = checkpoint.read(path)
  same(found.read(found.arrays), arrays | {'flax_mutables/cache/index': np.arange(3)})
  theirs = serialization.msgpack_restore((model_dirs['msgpack'] / 'checkpoint_2/checkpoint').read_bytes())
  ours = serialization.msgpack_restore((path / 'checkpoint').read_bytes())
  assert ours['version'] == theirs['version']
  for folder in (model_dirs['msgpack'] / 'checkpoint_2').iterdir():
    if folder.is_dir():
      about = [json.loads((root / folder.name / '.zarray').read_text()) for root in (folder.parent, path)]
      assert about[0] == about[1]
  spec = ours['optimizer']['target']['decoder']['decoder_norm']['scale']
  known = theirs['optimizer']['target']['decoder']['decoder_norm']['scale']
  assert spec['kvstore'] == known['kvstore'] and spec['dtype'] == known['dtype']
  with pytest.raises(errors.BundleError, match='already'):
    checkpoint.write(tmp_path, 2, arrays)
  assert [child.name for child in tmp_path.iterdir()] == ['checkpoint_2']


def test_large_arrays_are_written_in_chunks():
  assert checkpoint.chunks(np.empty((3, 8))) == [3, 8]
  shape = checkpoint.chunks(np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (50001, 2048), (0, 0)))
  assert shape == [6251, 2048] and checkpoint.CHUNK_BYTES >= 6251 * 2048 * 4


def test_the_latest_of_a_model_dir_is_taken_by_number(arrays, tmp_path):
  for step in (9, 10):
    checkpoint.write(tmp_path, step, {'target/a': np.full(4, step, np.float32)})
  assert checkpoint.read(tmp_path).step == 10
  assert checkpoint.read(tmp_path / 'checkpoint_9' / 'checkpoint').step == 9


def rewritten(change):
  """Changes the msgpack of a checkpoint."""

  def damage(path):
    tree = serialization.msgpack_restore((path / 'checkpoint').read_bytes())
    change(tree)
    (path / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))

  return damage


def outside(tree):
  tree['optimizer']['target']['decoder']['decoder_norm']['scale']['kvstore']['path'] = '../elsewhere'


WO = 'target.decoder.layers_0.mlp.wo.kernel'


def compressor(path):
  about = json.loads((path / WO / '.zarray').read_text())
  about['compressor'] = {'id': 'lz5'}
  (path / WO / '.zarray').write_text(json.dumps(about))


DAMAGE = {
  'a chunk cut': (
    'msgpack', lambda p: (p / WO / '0.0').write_bytes((p / WO / '0.0').read_bytes()[:50]), 'truncated',
  ),
  'a chunk gone': ('msgpack', lambda p: (p / WO / '0.0').unlink(), 'wo/kernel cannot be read'),
  'an array gone': ('msgpack', lambda p: (p / WO / '.zarray').unlink(), 'there is no target.decoder'),
  'an unknown compressor': ('msgpack', compressor, 'lz5'),
  'half a msgpack': (
    'msgpack', lambda p: (p / 'checkpoint').write_bytes((p / 'checkpoint').read_bytes()[:500]), 'damaged',
  ),
  'another msgpack': (
    'msgpack', lambda p: (p / 'checkpoint').write_bytes(msgpack.packb([1])), 'no T5X state',
  ),
  'a later version': ('msgpack', rewritten(lambda tree: tree.update(version=4)), 'version 4'),
  'a way out': ('msgpack', rewritten(outside), 'not known'),
  'of TensorFlow': (
    'msgpack', lambda p: (p / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt"'), 'TensorFlow',
  ),
  'no metadata': ('orbax', lambda p: (p / 'state' / '_METADATA').write_text('{'), 'damaged'),
  'no database': ('orbax', lambda p: (p / 'state' / 'manifest.ocdbt').unlink(), 'damaged'),
  'incomplete': ('orbax', lambda p: (p / 'state' / '_METADATA').unlink(), 'incomplete'),
}  # fmt: skip


@pytest.mark.parametrize('case', DAMAGE)
def test_damage_is_told_in_one_sentence(own_model_dir, case):
  form, damage, told = DAMAGE[case]
  path = own_model_dir(form) / 'checkpoint_2'
  damage(path)
  with pytest.raises(errors.BundleError) as caught:
    found = checkpoint.read(path.parent)
    found.read(found.arrays)
  text = str(caught.value)
  assert told in text and 'checkpoint_2' in text and '\n' not in text


@pytest.mark.parametrize('case', ['a chunk cut', 'an unknown compressor', 'a later version', 'no database'])
def test_of_damage_nothing_is_made_and_the_exit_status_is_two(own_model_dir, tmp_path, case, capsys):
  form, damage, told = DAMAGE[case]
  source = own_model_dir(form)
  damage(source / 'checkpoint_2')
  recipe = ('models/tiny.gin', 'tasks/tiny_semantic.gin', 'runs/train_stage.gin')
  flags = [f'--gin_file={path}' for path in recipe]
  required = {'DATASET_DIR': '"none"', 'TOTAL_STEPS': 1000, 'BATCH_SIZE': 2, 'PEAK_LEARNING_RATE': 0.1}
  flags += [f'--gin.{name}={value}' for name, value in required.items()]
  before = sorted(tmp_path.rglob('*'))
  assert cli.main(['t5x', 'import', str(source), f'--out={tmp_path / "run"}', *flags]) == 2
  said = capsys.readouterr().err.strip()
  assert told in said and '\n' not in said
  assert sorted(tmp_path.rglob('*')) == before


def test_show_lists_arrays_with_their_sizes(model_dirs, tmp_path, capsys):
  assert cli.main(['t5x', 'show', str(model_dirs['orbax'])]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].endswith('checkpoint_2: orbax, step 2')
  row = next(line for line in lines if line.endswith(' target/decoder/layers_0/mlp/wo/kernel'))
  assert row.split()[:3] == ['float32', '32x16', '2,048']
  assert lines[-1].startswith('target: 22 arrays, ')
  assert cli.main(['t5x', 'show', str(tmp_path)]) == 2
  assert 'no T5X checkpoint' in capsys.readouterr().err


def test_what_is_no_checkpoint_is_told(tmp_path):
  (tmp_path / 'empty').mkdir()
  for path, told in ((tmp_path / 'none', 'nothing there'), (tmp_path / 'empty', 'no T5X checkpoint')):
    with pytest.raises(errors.BundleError, match=told):
      checkpoint.read(path)
