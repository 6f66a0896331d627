"""`tools/import_codec.py`: published checkpoints on disk to bundles."""

import importlib.util
import json
import pathlib
import pickle

import numpy as np
import pytest
from safetensors.numpy import save_file

from v2meow_jax import bundles, terminal

ROOT = pathlib.Path(__file__).parent.parent
FIXTURES = pathlib.Path(__file__).parent / 'codec' / 'fixtures'


@pytest.fixture(scope='module')
def tool():
  spec = importlib.util.spec_from_file_location('import_codec', ROOT / 'tools' / 'import_codec.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def fixture(name):
  with np.load(FIXTURES / f'{name}.npz') as found:
    arrays = {key.removeprefix('weights/'): found[key] for key in found if key.startswith('weights/')}
    return arrays, found['audio'][..., None], found['codes']


def hugging_face(folder, name, **settings):
  folder.mkdir()
  save_file(fixture(name)[0], folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(settings))
  return folder


def refused(tool, capsys, *arguments):
  assert terminal.run(tool.main, [*map(str, arguments)]) == 2
  told = capsys.readouterr().err
  assert len(told.strip().splitlines()) == 1
  return told


@pytest.mark.parametrize(('name', 'rate'), [('dac_24k', 24000), ('encodec_32k', 32000)])
def test_a_folder_of_hugging_faces_becomes_a_codec(tool, name, rate, tmp_path, capsys):
  folder = hugging_face(tmp_path / 'model', name, sampling_rate=rate, model_type='any')
  assert terminal.run(tool.main, [str(folder), '--out', str(tmp_path / 'out'), '--licence', 'CC0 1.0']) == 0
  assert f'at {rate} Hz' in capsys.readouterr().out
  loaded = bundles.load(tmp_path / 'out')
  assert loaded.about['licence'] == 'CC0 1.0' and loaded.stages() == []
  _, audio, codes = fixture(name)
  np.testing.assert_array_equal(loaded.codec().encode(audio), codes)
  assert bundles.load_codec(tmp_path / 'out').identity == loaded.codec().identity


def test_only_the_first_levels_are_kept_where_asked(tool, tmp_path, capsys):
  folder = hugging_face(tmp_path / 'model', 'dac_16k', sampling_rate=16000)
  assert terminal.run(tool.main, [str(folder), '--out', str(tmp_path / 'out'), '--levels', '2']) == 0
  _, audio, codes = fixture('dac_16k')
  np.testing.assert_array_equal(bundles.load_codec(tmp_path / 'out').encode(audio), codes[..., :2])


def test_what_cannot_be_read_is_told_in_a_sentence(tool, tmp_path, capsys):
  out = tmp_path / 'out'
  whole = hugging_face(tmp_path / 'whole', 'dac_16k')
  assert 'sample rate' in refused(tool, capsys, whole, '--out', out)
  assert 'levels: the codec has 1 to 3' in refused(
    tool, capsys, whole, '--out', out, '--sample_rate', 16000, '--levels', 4
  )
  data = (whole / 'model.safetensors').read_bytes()
  (tmp_path / 'cut.safetensors').write_bytes(data[: len(data) // 2])
  assert 'not a whole safetensors file' in refused(tool, capsys, tmp_path / 'cut.safetensors', '--out', out)
  (tmp_path / 'empty').mkdir()
  assert 'neither model.safetensors nor' in refused(tool, capsys, tmp_path / 'empty', '--out', out)
  assert 'no such file' in refused(tool, capsys, tmp_path / 'gone.safetensors', '--out', out)
  (tmp_path / 'a.wav').write_bytes(b'RIFF')
  assert 'neither a .safetensors file nor a pickle' in refused(tool, capsys, tmp_path / 'a.wav', '--out', out)
  (whole / 'config.json').write_text('{')
  assert 'config.json: not JSON' in refused(tool, capsys, whole, '--out', out)
  assert not out.exists()


class Harmful:
  def __reduce__(self):
    return (pathlib.Path.touch, (pathlib.Path('touched'),))


def test_a_pickle_is_never_run(tool, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'model.pth').write_bytes(pickle.dumps(Harmful()))
  told = refused(tool, capsys, tmp_path / 'model.pth', '--out', tmp_path / 'out')
  assert 'PyTorch is needed' in told or 'more than weights are in it' in told
  assert not (tmp_path / 'touched').exists()


@pytest.mark.parametrize('wrap', [lambda x: {'state_dict': x, 'metadata': {'a': 1}}, lambda x: x])
def test_the_authors_pickles_are_read_where_pytorch_is(tool, tmp_path, capsys, wrap):
  torch = pytest.importorskip('torch', reason='only the tool needs it')
  arrays, audio, codes = fixture('dac_44k_authors')
  state = {name: torch.tensor(value) for name, value in arrays.items()}
  torch.save(wrap(state), tmp_path / 'weights.pth')
  arguments = [tmp_path / 'weights.pth', '--out', tmp_path / 'out', '--sample_rate', 44100]
  assert terminal.run(tool.main, [*map(str, arguments)]) == 0
  np.testing.assert_array_equal(bundles.load_codec(tmp_path / 'out').encode(audio), codes)
  (tmp_path / 'cut.pth').write_bytes((tmp_path / 'weights.pth').read_bytes()[:3000])
  assert 'damaged' in refused(tool, capsys, tmp_path / 'cut.pth', '--out', tmp_path / 'other')
