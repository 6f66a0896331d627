"""Programs that another process has lowered."""

import concurrent.futures
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import partitioning, programs
from v2meow_jax.sampling import Sampling

pytestmark = pytest.mark.skipif(
  jax.default_backend() != 'cpu' or jax.device_count() > 1, reason='kept are programs of one CPU'
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setattr(programs, '_folder', lambda: tmp_path / 'lowered')
  return tmp_path / 'lowered'


@pytest.fixture
def made():
  """Makes functions as two processes would, and counts how often they were traced."""
  traced = []

  def scaled(x, factor, names=('a',), more=None):
    traced.append(names)
    total = x * factor + len(names)
    return {'total': total, 'pair': (total[..., 0], total if more is None else total + more['key'])}

  scaled.__module__ = 'v2meow_jax.of_this_package'

  def make(**settings):
    return programs.Kept(scaled, ('names',), **settings)

  make.traced = traced
  return make


def test_what_one_process_has_lowered_another_runs_without_tracing(folder, made):
  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  first = made()(x, 2.0, names=('a', 'b'))
  count = len(made.traced)
  again = made()
  second = again(x, 2.0, names=('a', 'b'))
  assert count and len(made.traced) == count and len(list(folder.iterdir())) == 1
  jax.tree.map(np.testing.assert_array_equal, first, second)
  np.testing.assert_array_equal(second['total'], 2 * x + 2)
  again(x, factor=3.0, names=('a', 'b'))  # named or not, and other values: the same program
  assert len(made.traced) == count and len(again._ready) == 1


def test_threads_that_want_one_program_at_once_share_it(folder, made):
  kept, x = made(), np.ones(3, np.float32)
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    results = list(threads.map(lambda _: kept(x, 2.0), range(8)))
  assert len(made.traced) == 1 and len(list(folder.iterdir())) == 1
  for result in results:
    np.testing.assert_array_equal(result['total'], results[0]['total'])


@pytest.mark.parametrize(
  'other',
  [
    lambda f, x: f(x[:1], 2.0),
    lambda f, x: f(x.astype(np.int32), 2.0),
    lambda f, x: f(x, np.float32(2)),  # not weakly typed
    lambda f, x: f(x, 2.0, names=('b',)),
    lambda f, x: f(x, 2.0, more={'key': x}),
    lambda f, x: f(x, 2.0, more={'key': x[0]}),
  ],
)
def test_another_shape_type_tree_or_setting_is_another_program(folder, made, other):
  x = np.ones((2, 3), np.float32)
  made()(x, 2.0)
  count = len(made.traced)
  other(made(), x)
  assert len(made.traced) > count and len(list(folder.iterdir())) == 2


def test_other_code_another_closure_and_another_configuration_are_other_programs(folder, made, monkeypatch):
  x = np.ones((2, 3), np.float32)
  made()(x, 2.0)
  made(closed_over=('another network', 3))(x, 2.0)
  assert len(list(folder.iterdir())) == 2
  with jax.default_matmul_precision('highest'):
    made()(x, 2.0)
  assert len(list(folder.iterdir())) == 3
  monkeypatch.setattr(programs, '_machine', lambda: ('another version of JAX',))
  made()(x, 2.0)
  assert len(list(folder.iterdir())) == 4
  monkeypatch.setattr(programs, '_code', lambda: 'of the next version')
  monkeypatch.setattr(programs, '_CODE', 'of the next version')
  made()(x, 2.0)
  assert len(list(folder.iterdir())) == 5


def test_the_code_is_all_of_the_package(tmp_path, monkeypatch):
  code = tmp_path / 'inner' / 'some.py'
  code.parent.mkdir()
  code.write_text('x = 1')
  monkeypatch.setattr(programs, '__file__', str(tmp_path / 'programs.py'))
  first = programs._code()
  code.write_text('x = 2')
  assert programs._code() != first
  code.with_name('.#some.py').symlink_to('an editor that has it open')
  assert programs._code() not in (None, first)


def test_code_that_cannot_be_read_keeps_nothing(nothing_kept, tmp_path, monkeypatch):
  monkeypatch.setattr(programs, '__file__', str(tmp_path / 'programs.py'))
  assert programs._code() is None  # as in an archive
  (tmp_path / 'gone.py').symlink_to('nowhere')
  assert programs._code() is None
  monkeypatch.setattr(programs, '_CODE', None)
  assert nothing_kept() is None


def test_code_that_was_changed_since_it_was_imported_keeps_nothing(folder, made, monkeypatch):
  monkeypatch.setattr(programs, '_code', lambda: 'of an installation that came meanwhile')
  assert float(made()(np.ones((1, 1), np.float32), 2.0)['total'][0, 0]) == 3
  assert not list(folder.iterdir())


class Theirs(tuple):
  """Of a type whose code is not in the package."""


def test_what_is_not_this_package_s_is_not_kept(folder, made):
  x = np.ones((1, 1), np.float32)
  assert float(made()(x, 2.0, names=Theirs('a'))['total'][0, 0]) == 3
  within = Sampling(suppress=(Theirs((1, 2)),))
  object.__setattr__(within, 'suppress', Theirs(within.suppress))
  assert float(made(closed_over=(3, {'a': within}))(x, 2.0)['total'][0, 0]) == 3
  kept = programs.Kept(lambda x: 2 * x)
  assert float(kept(x)[0, 0]) == 2
  assert not folder.exists()
  made(closed_over=(3, {'a': Sampling()}))(x, 2.0)
  assert folder.exists()


@pytest.mark.parametrize(('count', 'backend'), [(2, 'cpu'), (1, 'gpu')])
def test_nothing_is_kept_but_of_one_cpu(folder, made, monkeypatch, count, backend):
  monkeypatch.setattr(jax, 'device_count', lambda: count)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  assert float(made()(np.ones((1, 1), np.float32), 2.0)['total'][0, 0]) == 3
  assert not folder.exists()


def test_who_wants_to_see_each_operation_sees_it(folder, made):
  kept, x = made(), np.ones((1, 1), np.float32)
  kept(x, 2.0)
  count = len(made.traced)
  with jax.disable_jit():
    kept(x, 2.0)
    kept(x, 2.0)
  assert len(made.traced) == count + 2


def test_within_a_mesh_nothing_is_kept(folder, made, monkeypatch):
  monkeypatch.setattr(partitioning, 'current', object)
  assert float(made()(np.ones((1, 1), np.float32), 2.0)['total'][0, 0]) == 3
  assert not folder.exists()


def test_a_cache_to_be_read_alone_is_read(folder, made, monkeypatch):
  x = np.ones((2, 3), np.float32)
  made()(x, 2.0)
  count = len(made.traced)

  def refused(*args):
    raise PermissionError

  monkeypatch.setattr(os, 'utime', refused)
  made()(x, 2.0)
  assert len(made.traced) == count


def test_without_what_jax_writes_programs_with_it_runs(folder, made, monkeypatch):
  monkeypatch.setitem(sys.modules, 'flatbuffers', None)
  for name in [name for name in sys.modules if name.startswith('jax._src.export.ser')]:
    monkeypatch.delitem(sys.modules, name)
  assert float(made()(np.ones((1, 1), np.float32), 2.0)['total'][0, 0]) == 3
  assert not folder.exists()


def test_a_damaged_file_is_lowered_again_and_mended(folder, made):
  x = np.ones((2, 3), np.float32)
  made()(x, 2.0)
  (path,) = folder.iterdir()
  whole = path.read_bytes()
  middle = len(whole) // 2
  for damaged in (b'', whole[:100], b'\xff' * 500, whole[:middle] + bytes(30) + whole[middle + 30 :]):
    path.write_bytes(damaged)
    assert float(made()(x, 2.0)['total'][0, 0]) == 3
    assert path.read_bytes() != damaged and len(path.read_bytes()) == len(whole)
    count = len(made.traced)
    made()(x, 2.0)
    assert len(made.traced) == count


def test_a_folder_that_cannot_be_used_changes_nothing(folder, made):
  folder.write_text('no folder')
  assert float(made()(np.ones((1, 1), np.float32), 2.0)['total'][0, 0]) == 3


def test_what_cannot_be_exported_runs_all_the_same(folder):
  def called(x):
    return jax.pure_callback(lambda x: 2 * x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

  called.__module__ = 'v2meow_jax.of_this_package'
  np.testing.assert_array_equal(programs.Kept(called)(np.ones(3, np.float32)), 2 * np.ones(3))
  assert not folder.exists() or not list(folder.iterdir())


def test_random_keys_go_in_and_out(folder):
  keys = jax.random.split(jax.random.key(3), 4)

  def fold(keys, number):
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)

  fold.__module__ = 'v2meow_jax.of_this_package'
  made = programs.Kept(fold)(keys, np.int32(5))
  assert len(list(folder.iterdir())) == 1
  assert (jax.random.key_data(made) == jax.random.key_data(fold(keys, 5))).all()


def test_within_other_traced_functions_it_is_a_part_of_them(folder, made):
  kept = made()
  gradient = jax.grad(lambda x: jnp.sum(kept(x, 2.0)['total']))(jnp.ones((2, 3)))
  np.testing.assert_array_equal(gradient, 2 * np.ones((2, 3)))
  assert not folder.exists()


@pytest.mark.parametrize(
  ('place', 'enabled', 'kept'),
  [('here', True, True), ('here', False, False), (None, True, False), ('gs://there/compiled', True, False)],
)
def test_programs_lie_beside_the_cache_that_jax_is_told(nothing_kept, place, enabled, kept):
  told = {'jax_compilation_cache_dir': place, 'jax_enable_compilation_cache': enabled}
  before = {name: jax.config.values[name] for name in told}
  try:
    for name, value in told.items():
      jax.config.update(name, value)
    assert nothing_kept() == (pathlib.Path('here', 'lowered') if kept else None)
  finally:
    for name, value in before.items():
      jax.config.update(name, value)


def test_where_there_is_too_much_what_was_not_used_for_longest_goes_first(folder, made, monkeypatch):
  x = np.ones((2, 3), np.float32)
  made()(x, 2.0)
  made()(x[:1], 2.0)
  programs_of = {path: path.stat().st_size for path in folder.iterdir()}
  for path in programs_of:
    os.utime(path, (0, 0))
  made()(x, 2.0)  # reads one of the two
  (unused,) = (path for path in programs_of if not path.stat().st_mtime)
  monkeypatch.setattr(programs, 'BYTES', sum(programs_of.values()) + 500)
  made()(x[:1, :1], 2.0)
  assert not unused.exists() and len(list(folder.iterdir())) == 2


def test_music_is_the_same_from_a_kept_program(small_bundle, demo_clip, tmp_path):
  """As commands do it, three times in processes of their own: lowered, kept, and without keeping."""
  program = (
    'import sys\n'
    'from v2meow_jax import cli, programs\n'
    'if sys.argv[1] == "not":\n'
    '  programs._folder = lambda: None\n'
    'sys.exit(cli.main(["generate", *sys.argv[2:]]))\n'
  )
  sounds, lowered = [], []
  variables = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache')}
  for number, how in enumerate(('keeping', 'keeping', 'not')):
    out = tmp_path / str(number)
    asked = [str(demo_clip), f'--bundle={small_bundle}', f'--out={out}', '--duration=2', '--seed=3']
    subprocess.run([sys.executable, '-c', program, how, *asked], check=True, env=variables)
    sounds.append((out / f'{pathlib.Path(demo_clip).stem}.wav').read_bytes())
    # A file that is written anew is another one, of the same name.
    lowered.append({(path.name, path.stat().st_ino) for path in (tmp_path / 'cache' / 'lowered').iterdir()})
  assert len(lowered[0]) >= 3, 'keys, stages, codec'
  assert lowered[0] == lowered[1] == lowered[2]
  assert sounds[0] == sounds[1] == sounds[2]
