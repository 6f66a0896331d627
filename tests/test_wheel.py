"""The wheel holds all that generation and training need, and generates outside of the repository."""

import os
import pathlib
import subprocess
import sys
import zipfile

import pytest
import small


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'
  # A copy of what git tracks: building leaves folders behind.
  tracked = subprocess.run(['git', 'ls-files'], cwd=small.ROOT, capture_output=True, text=True, check=True)
  for name in tracked.stdout.splitlines():
    if name.startswith(('v2meow_jax/', 'gin/')) or '/' not in name:
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      (source / name).write_bytes((small.ROOT / name).read_bytes())
  command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation']
  subprocess.run([*command, '--wheel-dir', str(folder), str(source)], check=True)
  return next(folder.glob('*.whl'))


def test_the_gin_files_are_in_it(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  for path in (small.ROOT / 'gin').rglob('*.gin'):
    assert f'v2meow_jax/gin/{path.relative_to(small.ROOT / "gin")}' in names
  assert not [name for name in names if name.startswith(('gin/', 'tests/', 'data/'))]


def test_it_generates_and_reads_its_recipes_outside_of_the_repository(
  wheel, small_bundle, demo_clip, tmp_path
):
  site = tmp_path / 'site'
  install = [
    sys.executable,
    '-m',
    'pip',
    'install',
    '--quiet',
    '--no-deps',
    '--no-index',
    '--target',
    str(site),
  ]
  subprocess.run([*install, str(wheel)], check=True)
  code = (
    'import sys, v2meow_jax\nfrom v2meow_jax import cli\nfrom v2meow_jax.experiment import configuration\n'
    f'assert v2meow_jax.__file__.startswith({str(site)!r}), v2meow_jax.__file__\n'
    'assert (configuration.gin_directory() / "recipes" / "tiny_codec.gin").is_file()\n'
    f'options = ["--bundle", {str(small_bundle)!r}, "--duration", "1"]\n'
    f'sys.exit(cli.main(["generate", {str(demo_clip)!r}, *options]))\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(site)},
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'out' / 'big_buck_bunny.mp4').stat().st_size > 10_000
