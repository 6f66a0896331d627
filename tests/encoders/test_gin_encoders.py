"""Encoders that files of gin/encoders name, through `v2meow prepare`."""

import json
import re

import numpy as np
import published
import pytest

import gin
from v2meow_jax import terminal
from v2meow_jax.commands import fit_tokens, prepare
from v2meow_jax.data.dataset import Dataset, find_stream
from v2meow_jax.encoders import registry, tokens
from v2meow_jax.encoders.clip import ClipNetwork
from v2meow_jax.encoders.driver import NetworkEncoder
from v2meow_jax.experiment.configuration import gin_directory
from v2meow_jax.media.clip import MediaClip

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')


@pytest.fixture(autouse=True)
def clean():
  gin.clear_config()
  yield
  gin.clear_config()


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models')
  return {name: published.lay_out(name, folder / name) for name in ('clip', 'siglip')}


@pytest.fixture
def manifest(tmp_path, demo_clip):
  (tmp_path / 'film.mp4').symlink_to(demo_clip)
  path = tmp_path / 'manifest.jsonl'
  path.write_text(json.dumps({'id': 'film', 'video': 'film.mp4', 'split': 'train'}) + '\n')
  return path


def run(*arguments):
  return terminal.run(prepare.main, [str(argument) for argument in arguments])


def test_several_files_and_two_of_a_kind_lie_side_by_side(folders, manifest, tmp_path):
  twice = tmp_path / 'twice.gin'
  twice.write_text(
    'other/prepared.encoder = @other/NetworkEncoder()\n'
    'other/NetworkEncoder.network = @other/ClipNetwork()\n'
    f'other/ClipNetwork.weights = "{folders["clip"]}"\n'
    'other/ClipNetwork.rate = "1/2"\n'
    'other/ClipNetwork.stream_name = "video/clip-slow"\n'
  )
  files = [f'--gin_file={name}' for name in ('encoders/clip.gin', 'encoders/siglip.gin', twice)]
  places = [f'--gin.{name.upper()}="{folder}"' for name, folder in folders.items()]
  out = tmp_path / 'ds'
  arguments = ('--manifest', manifest, '--out', out, '--clip_seconds=6', '--workers=1', *files, *places)
  assert run(*arguments) == 0
  found = {}
  for name in ('video/clip', 'video/siglip', 'video/clip-slow'):
    stream = find_stream(out, name)
    data = Dataset(out, 'train', (stream,))
    assert len(data.clips) == 5
    found[name] = data.read(stream, 2)
  assert [len(value) for value in found.values()] == [6, 6, 3]
  clip = MediaClip(data.clips[2].video, None, data.clips[2].start, data.clips[2].duration)
  alone = NetworkEncoder(ClipNetwork(str(folders['clip']))).encode_clip(clip)
  np.testing.assert_array_equal(found['video/clip'], alone.astype(np.float16))
  # One picture every two seconds is every second one of those every second.
  np.testing.assert_allclose(found['video/clip-slow'], found['video/clip'][::2], atol=2e-3)  # float16
  made_by = json.loads((out / 'streams.json').read_text())['video/clip-slow']['made_by']
  assert str(tmp_path) not in json.dumps(made_by)
  networks = {'video/clip-slow': str(folders['clip'])}
  again = registry.build(made_by, tmp_path, networks)
  assert again.stream.name == 'video/clip-slow' and again.identity == made_by


def test_a_flag_does_the_same_and_what_is_missing_or_twice_is_told(folders, manifest, tmp_path, capsys):
  out = ('--manifest', manifest, '--out', tmp_path / 'ds', '--workers=1')
  assert run(*out, '--streams=video/clip', f'--clip={folders["clip"]}', '--clip_seconds=30') == 0

  def refused(*arguments):
    gin.clear_config()
    assert run(*out, *arguments) == 2
    return capsys.readouterr().err

  assert 'CLIP is not set' in refused('--gin_file=encoders/clip.gin')
  gone = refused('--gin_file=encoders/clip.gin', '--gin.CLIP="/nowhere"')
  assert 'no such file' in gone and 'configurable' not in gone
  at = f'--gin.CLIP="{folders["clip"]}"'
  assert "'ratio'" in refused('--gin_file=encoders/clip.gin', at, '--gin.clip/ClipNetwork.ratio=2')
  twice = ('--streams=video/clip', f'--clip={folders["clip"]}', '--gin_file=encoders/clip.gin', at)
  assert 'two encoders make video/clip' in refused(*twice)


def test_tokens_are_fitted_to_a_stream_and_made_of_its_encoder(folders, manifest, tmp_path, capsys):
  out, codes = tmp_path / 'ds', tmp_path / 'codes.safetensors'
  place = f'--gin.CLIP="{folders["clip"]}"'
  short = ('--out', out, '--workers=1')
  assert run('--manifest', manifest, *short, '--gin_file=encoders/clip.gin', place, '--clip_seconds=15') == 0
  gin.clear_config()
  fitting = ['--dataset', out, '--name=video/tokens', '--levels=2', '--codes=4', '--out', codes]
  assert terminal.run(fit_tokens.main, [*map(str, fitting), '--stream=video/clip']) == 0
  files = ('--gin_file=encoders/visual_tokens.gin', place, f'--gin.CODES="{codes}"')
  assert run(*short, *files) == 0
  made, stream = find_stream(out, 'video/tokens'), find_stream(out, 'video/clip')
  assert (made.kind, made.rate, made.width, made.codes) == ('tokens', 1, 2, 4)
  data = Dataset(out, 'train', (made, stream))
  vectors = data.read(stream, 1).astype(np.float32)
  # The records are of half precision, which may lie nearer to another code.
  assert (data.read(made, 1) == tokens.load(codes).quantizer.quantize(vectors)).mean() > 0.9
  assert len(np.unique(data.read(made, 0)[:, 0])) > 1
  capsys.readouterr()
  assert terminal.run(fit_tokens.main, [*map(str, fitting), '--stream=video/tokens']) == 2
  assert 'holds tokens' in capsys.readouterr().err


@pytest.mark.parametrize(
  'path', sorted((gin_directory() / 'encoders').glob('*.gin')), ids=lambda path: path.stem
)
def test_every_file_names_an_encoder_and_weights_that_are_not_there_are_told(
  path, manifest, tmp_path, capsys
):
  macros = re.findall(r'^(\w+) = %gin.REQUIRED$', path.read_text(), re.MULTILINE)
  places = [f'--gin.{name}="/nowhere"' for name in macros]
  assert macros and run('--manifest', manifest, '--out', tmp_path / 'ds', f'--gin_file={path}', *places) == 2
  assert '/nowhere' in capsys.readouterr().err
  assert not (tmp_path / 'ds' / 'streams.json').exists()
