"""Shared by all tests: the demo clip, and a bundle of small untrained networks."""

import json
import os
import pathlib
import shutil
import signal

# What runs behind a shell ignores it, and so would every process that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)
# Before JAX is imported: with libtpu installed it would look for a TPU first.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Most of a test's time is compilation, a quarter of that optimises what then runs for milliseconds.
# `make test-full` leaves XLA as users have it.
if os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') not in ('0', 'false'):
  # Fusions by the older emitter: programs of tests are compiled in half the time.
  os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')
# Tests compile the same small programs in many processes; entries are keyed by program and versions.
CACHE = pathlib.Path(__file__).resolve().parent.parent / '.pytest_cache' / 'jax'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

import pytest  # noqa: E402
import small  # noqa: E402

from v2meow_jax import programs, workers  # noqa: E402


@pytest.fixture(scope='session', autouse=True)
def nothing_kept():
  """Tests replace parts of what is traced, of which programs of an earlier run would know nothing.

  Gives the function that says where programs would be kept.
  """
  found = programs._folder
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(programs, '_folder', lambda: None)
    yield found


@pytest.fixture(scope='session', autouse=True)
def one_core():
  """Commands draw and prepare here, unless they are told otherwise: each process takes a second to begin."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(workers, 'cores', lambda: 1)
    yield


@pytest.fixture(scope='session')
def small_bundle(tmp_path_factory) -> pathlib.Path:
  """Path of the bundle; not to be changed."""
  return small.write_bundle(tmp_path_factory.mktemp('bundle') / 'small')


@pytest.fixture(scope='session')
def demo_clip() -> pathlib.Path:
  """The bundled real clip, 30 s long."""
  return small.ROOT / 'data' / 'demo' / 'big_buck_bunny.mp4'


@pytest.fixture(scope='session')
def small_dataset(small_bundle, demo_clip, tmp_path_factory) -> pathlib.Path:
  """The demo clip twice, once in each split, with all streams by the small bundle; not to be changed."""
  pytest.importorskip('tensorflow_datasets', reason='preparing is part of the extra "train"')
  from v2meow_jax.commands import prepare

  folder = tmp_path_factory.mktemp('small_dataset')
  rows = []
  for name in ('a', 'b'):
    shutil.copy(demo_clip, folder / f'{name}.mp4')
    rows.append({'id': name, 'video': f'{name}.mp4'})
  manifest = folder / 'manifest.jsonl'
  manifest.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  streams = 'video/motion,audio/waveform,audio/semantic,audio/acoustic'
  made = ('--clip_seconds=6', '--sample_rate=8000', '--workers=1', f'--bundle={small_bundle}')
  assert (
    prepare.main([f'--manifest={manifest}', f'--out={folder / "ds"}', f'--streams={streams}', *made]) == 0
  )
  return folder / 'ds'
