"""`v2meow generate` as a user meets it."""

import os
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile

from v2meow_jax import cli, generate


def run(*arguments) -> int:
  return cli.run(generate.main, [str(argument) for argument in arguments])


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
  assert 'the video itself' in told(capsys)
  assert clip.read_bytes() == before


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
  from v2meow_jax.generation.sampling import Sampling

  args = type(
    'Args', (), {'temperature': '0.5,fine=0', 'top_k': 'fine=7', 'top_p': '', 'overlap': '', 'guidance': ''}
  )
  chosen = generate._sampling(args, {'coarse': Sampling(), 'fine': Sampling()})
  assert chosen == {'coarse': Sampling(0.5), 'fine': Sampling(0.0, 7)}
