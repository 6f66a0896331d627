"""`v2meow generate` as a user meets it."""

import os
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
import small
import soundfile

from v2meow_jax import terminal
from v2meow_jax.commands import generate
from v2meow_jax.generation import options
from v2meow_jax.sampling import Sampling


def run(*arguments) -> int:
  return terminal.run(generate.main, [str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def results(small_bundle, demo_clip, tmp_path_factory):
  out = tmp_path_factory.mktemp('results')
  assert run(demo_clip, '--bundle', small_bundle, '--out', out, '--duration', 4, '--seed', 1) == 0
  return out


def test_the_film_has_the_clips_pictures_and_the_music(results, demo_clip):
  music, rate = soundfile.read(results / 'big_buck_bunny.wav')
  assert rate == 8000 and len(music) == 32000
  with av.open(str(results / 'big_buck_bunny.mp4')) as film, av.open(str(demo_clip)) as clip:
    assert film.streams.audio[0].codec_context.name == 'aac'
    theirs = [bytes(packet) for packet in clip.demux(video=0) if packet.size]
    ours = [bytes(packet) for packet in film.demux(video=0) if packet.size]
    # The pictures are copied, not encoded again; 4 s at 24 frames a second, and what they depend on.
    assert 96 <= len(ours) <= 100 and ours == theirs[: len(ours)]


def test_the_music_has_the_loudness_asked_for(results):
  from v2meow_jax.media import loudness

  music, rate = soundfile.read(results / 'big_buck_bunny.wav', always_2d=True)
  measured = loudness.integrated_loudness(music.astype(np.float32), rate)
  # Either the target, or as near to it as the peak allows.
  assert measured == pytest.approx(-16, abs=0.2) or np.abs(music).max() == pytest.approx(
    10 ** (-1 / 20), abs=1e-3
  )


def test_the_picture_is_one(results):
  from matplotlib import image

  pixels = image.imread(results / 'big_buck_bunny.png')
  assert pixels.shape[0] > 400 and pixels[..., :3].std() > 0.05


def test_nothing_else_is_left_behind(results):
  assert sorted(path.name for path in results.iterdir()) == [
    f'big_buck_bunny.{s}' for s in ('json', 'mp4', 'png', 'wav')
  ]


def test_generation_imports_neither_tensorflow_nor_torch(small_bundle, demo_clip, tmp_path):
  # The import system does not find them: an environment with only the base install.
  code = (
    'import sys\n'
    'from importlib.machinery import PathFinder\n'
    'found = PathFinder.find_spec\n'
    'gone = ("tensorflow", "torch", "seqio", "tensorboard")\n'
    'def find(name, *rest):\n'
    '  return None if name.partition(".")[0] in gone else found(name, *rest)\n'
    'PathFinder.find_spec = staticmethod(find)\n'
    'from v2meow_jax import cli\n'
    f'sys.exit(cli.main(["generate", {str(demo_clip)!r}, "--bundle", {str(small_bundle)!r}, '
    f'"--out", {str(tmp_path)!r}, "--duration", "1"]))\n'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'big_buck_bunny.mp4').exists()


def told(capsys) -> str:
  error = capsys.readouterr().err
  assert 'Traceback' not in error
  lines = [line for line in error.splitlines() if line.startswith('v2meow: ')]
  assert len(lines) == 1
  return lines[0]


def test_a_missing_video(small_bundle, tmp_path, capsys):
  assert run(tmp_path / 'no.mp4', '--bundle', small_bundle, '--out', tmp_path / 'o') == 2
  assert 'no.mp4' in told(capsys)
  assert not (tmp_path / 'o').exists()


@pytest.mark.parametrize('content', [b'', b'not a film', bytes(range(256)) * 40])
def test_a_file_that_is_no_film(small_bundle, tmp_path, capsys, content):
  (tmp_path / 'x.mp4').write_bytes(content)
  assert run(tmp_path / 'x.mp4', '--bundle', small_bundle, '--out', tmp_path / 'o') == 2
  assert 'x.mp4' in told(capsys)


def test_sound_without_pictures(small_bundle, tmp_path, capsys):
  soundfile.write(tmp_path / 'x.wav', np.zeros(8000), 8000)
  assert run(tmp_path / 'x.wav', '--bundle', small_bundle, '--out', tmp_path / 'o') == 2
  assert 'no video' in told(capsys)


def test_a_folder_that_is_no_bundle(demo_clip, tmp_path, capsys):
  assert run(demo_clip, '--bundle', tmp_path, '--out', tmp_path / 'o') == 2
  assert 'no bundle.json' in told(capsys)


def test_an_output_that_cannot_be_written(small_bundle, demo_clip, tmp_path, capsys):
  (tmp_path / 'o').write_text('a file')
  assert run(demo_clip, '--bundle', small_bundle, '--out', tmp_path / 'o', '--duration', 1) == 2
  assert '/o' in told(capsys)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='only Linux has a device that is always full')
def test_a_full_disk_leaves_nothing_half_written(small_bundle, demo_clip, tmp_path, capsys, monkeypatch):
  from v2meow_jax import files

  def full(path, data):
    with files.replaced_when_done(path), open('/dev/full', 'wb') as file:
      file.write(data)

  monkeypatch.setattr(files, 'write_bytes', full)
  assert run(demo_clip, '--bundle', small_bundle, '--out', tmp_path / 'o', '--duration', 1) == 2
  assert 'No space left' in told(capsys)
  assert list((tmp_path / 'o').iterdir()) == []


def test_the_video_itself_is_never_overwritten(small_bundle, demo_clip, tmp_path, capsys):
  clip = shutil.copy(demo_clip, tmp_path / 'clip.mp4')
  before = clip.read_bytes()
  assert run(clip, '--bundle', small_bundle, '--out', tmp_path, '--duration', 1) == 2
  assert 'clip.mp4 is one of the files that are read' in told(capsys)
  # Nor is it by what is made of another request.
  manifest = tmp_path / 'm.jsonl'
  manifest.write_text('{"video": "clip.mp4", "name": "a"}\n{"video": "clip.mp4", "name": "clip"}\n')
  assert run(manifest, '--bundle', small_bundle, '--out', tmp_path, '--duration', 1) == 2
  assert 'clip.mp4 is one of the files that are read' in told(capsys)
  assert clip.read_bytes() == before and not (tmp_path / 'a.mp4').exists()


@pytest.mark.parametrize(
  ('option', 'value', 'words'),
  [
    ('--temperature', 'hot', 'not a number'),
    ('--temperature', '-1', 'temperature'),
    ('--top_p', '0', 'top_p'),
    ('--top_k', 'vocals=3', "no stage 'vocals'"),
    ('--overlap', '1', 'overlap'),
    ('--duration', '-2', 'duration: -2'),
    ('--seed', '-1', 'seed -1'),
  ],
)
def test_settings_that_do_not_hold(small_bundle, demo_clip, tmp_path, capsys, option, value, words):
  assert run(demo_clip, '--bundle', small_bundle, '--out', tmp_path / 'o', f'{option}={value}') == 2
  assert words in told(capsys)


def test_sampling_can_be_set_by_stage():
  told = {'temperature': '0.5,fine=0', 'top_k': 'fine=7', 'top_p': '', 'overlap': '', 'guidance': ''}
  chosen = options.changed({'coarse': Sampling(), 'fine': Sampling()}, told)
  assert chosen == {'coarse': Sampling(0.5), 'fine': Sampling(0.0, 7)}


@pytest.fixture
def folder(demo_clip, tmp_path):
  videos = tmp_path / 'videos'
  videos.mkdir()
  for name in ('a', 'b'):
    shutil.copy(demo_clip, videos / f'{name}.mp4')
  (videos / 'broken.mp4').write_bytes(b'not a film')
  (videos / 'notes.txt').write_text('not looked at')
  return videos


def test_a_folder_is_made_as_far_as_possible_and_resumed(small_bundle, folder, tmp_path, capsys):
  asked = (folder, '--bundle', small_bundle, '--out', tmp_path / 'o', '--duration', 1, '--clips', 2)
  assert run(*asked) == 2
  error = capsys.readouterr().err
  assert 'broken.mp4' in error and '1 of 3 videos got no music' in error and 'Traceback' not in error
  results = {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'o').iterdir()}
  assert sorted(results) == [f'{name}.{s}' for name in 'ab' for s in ('json', 'mp4', 'png', 'wav')]
  # What was interrupted has no JSON yet; it alone is made again.
  (tmp_path / 'o' / 'b.json').unlink()
  (folder / 'broken.mp4').unlink()
  assert run(*asked, '--resume') == 0
  assert '1 of 2 are complete already' in capsys.readouterr().err
  again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / 'o').iterdir()}
  assert {name for name in results if again[name] == results[name]} == {
    f'a.{s}' for s in ('json', 'mp4', 'png', 'wav')
  }
  # Another seed is another request.
  assert run(*asked, '--resume', '--seed', 5) == 0
  assert 'complete already' not in capsys.readouterr().err


def test_a_manifest_names_requests(small_bundle, folder, tmp_path, capsys):
  manifest = folder / 'm.jsonl'
  rows = (
    '{"video": "a.mp4", "name": "one", "duration": 1}',
    '{"video": "a.mp4", "seed": 3, "duration": 0.8}',
  )
  manifest.write_text('\n'.join(rows))
  assert run(manifest, '--bundle', small_bundle, '--out', tmp_path / 'o') == 0
  lengths = [soundfile.info(tmp_path / 'o' / name).frames for name in ('one.wav', 'a.wav')]
  assert lengths == [8000, 6400]
  capsys.readouterr()
  for line, words in (
    ('{"video": "a.mp4", "volume": 3}', 'line 1: "volume" is not known'),
    ('{"video": "a.mp4", "name": "../x"}', 'no file can have it'),
    ('{"video": "a.mp4", "seed": -1}', 'line 1: seed -1'),
    ('{"video": "a.mp4"}\n{"video": "a.mp4"}', "two results would be called 'a'"),
    ('[1]', 'line 1: it is not an object'),
    ('{', 'line 1: not JSON'),
  ):
    manifest.write_text(line + '\n')
    assert run(manifest, '--bundle', small_bundle, '--out', tmp_path / 'p') == 2
    assert words in told(capsys)
  assert not (tmp_path / 'p').exists()


def test_a_stream_is_a_wav_file_on_standard_output(small_bundle, demo_clip, capfdbinary):
  code = terminal.run(generate.main, [str(demo_clip), f'--bundle={small_bundle}', '--duration=2', '--stream'])
  out, error = capfdbinary.readouterr()
  assert code == 0 and b'first audio after' in error
  # Players take the length from the data.
  assert out[:4] == b'RIFF' and out[36:40] == b'data'
  samples = np.frombuffer(out[44:], '<i2')
  assert len(samples) == 16000 and np.abs(samples).max() > 1000
  assert np.frombuffer(out[22:28], '<u2').tolist()[0] == 1 and int.from_bytes(out[24:28], 'little') == 8000


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['--prompt=x', '--duration=1'], 'not trained with a style'),
    ([], 'name a video'),
    (['{clip}', '--guidance=video'], 'GROUP=SCALE'),
    (['{clip}', '--guidance=style=3', '--duration=1'], 'no such conditions'),
    (['{clip}', '--guidance=coarse:video=3', '--duration=1'], 'always'),
    (['{clip}', '--guidance=solo:video=3'], "no stage 'solo'"),
    (['{clip}', '--rows=0'], 'rows 0'),
    (['{clip}', '--clips=0'], '--clips'),
    (['{clip}', '{clip}', '--stream'], 'two results'),
    (['{empty}'], 'no video in this folder'),
  ],
)
def test_requests_that_cannot_be_met(small_bundle, demo_clip, tmp_path, capsys, arguments, words):
  (tmp_path / 'empty').mkdir()
  arguments = [a.format(clip=demo_clip, empty=tmp_path / 'empty') for a in arguments]
  assert run(*arguments, '--bundle', small_bundle, '--out', tmp_path / 'o') == 2
  assert words in told(capsys)


def test_the_library_is_used_as_the_documentation_says(small_bundle, demo_clip, monkeypatch, tmp_path):
  import re

  text = (small.ROOT / 'docs' / 'generation.md').read_text()
  (example,) = re.findall(r'```python\n(.*?)```', text, re.S)
  shutil.copy(demo_clip, tmp_path / 'clip.mp4')
  shutil.copytree(small_bundle, tmp_path / 'bundle')
  monkeypatch.chdir(tmp_path)
  scope: dict = {}
  exec(example, scope)
  assert scope['made'].audio.shape == (16000, 1)
  np.testing.assert_allclose(np.concatenate(scope['blocks']), scope['made'].audio, atol=1e-5)
