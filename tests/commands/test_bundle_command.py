import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from v2meow_jax import bundles, terminal
from v2meow_jax.bundles import writing
from v2meow_jax.commands import bundle as command


def run(*arguments) -> int:
  return terminal.run(command.main, [str(argument) for argument in arguments])


def test_info_tells_what_is_in_a_bundle(small_bundle, capsys):
  assert run('info', small_bundle) == 0
  told = capsys.readouterr().out
  for words in ('CC0-1.0', 'Spectral, 8000 Hz', 'stage coarse', 'left out 10% of the time', 'encoder motion'):
    assert words in told
  assert run('info', small_bundle, '--json') == 0
  assert json.loads(capsys.readouterr().out) == bundles.load(small_bundle).about


def test_verify_is_content_with_a_whole_bundle(small_bundle, capsys):
  assert run('verify', small_bundle) == 0
  assert 'right hashes' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda x: x | {'first': np.zeros(17, np.float32)}, r'first has shape (17,) instead of (16,)'),
    (lambda x: x | {'first': np.full(16, np.nan, np.float32)}, 'first has values that are not finite'),
    (lambda x: {k: v for k, v in x.items() if k != 'first'}, 'first is missing'),
    (lambda x: x | {'last': np.zeros(1, np.float32)}, 'last is not known'),
  ],
)
def test_verify_finds_what_hashes_do_not(small_bundle, tmp_path, capsys, change, words):
  folder = shutil.copytree(small_bundle, tmp_path / 'b')
  path = folder / 'stage_semantic.safetensors'
  save_file(change(load_file(path)), path)
  about = json.loads((folder / 'bundle.json').read_text())
  about['stages'][0] |= writing.describe_file(path)
  (folder / 'bundle.json').write_text(json.dumps(about))
  assert run('verify', folder) == 2
  error = capsys.readouterr().err
  assert 'stage_semantic.safetensors' in error and words in error and error.count('\n') == 1


def test_verify_finds_a_changed_byte(small_bundle, tmp_path, capsys):
  folder = shutil.copytree(small_bundle, tmp_path / 'b')
  data = bytearray((folder / 'codec.safetensors').read_bytes())
  data[-1] ^= 1
  (folder / 'codec.safetensors').write_bytes(data)
  assert run('verify', folder) == 2
  assert 'damaged' in capsys.readouterr().err
