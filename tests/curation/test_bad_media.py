"""Whatever lies in a folder: each row is a record or a reason, and nothing is half-written."""

import errno
import json
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from media_files import write_video

import gin
from v2meow_jax import files, terminal
from v2meow_jax.commands import prepare
from v2meow_jax.data import dataset, records, table
from v2meow_jax.encoders.motion import MotionEncoder

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')


@pytest.fixture(scope='module')
def odd(tmp_path_factory):
  """A manifest of odd rows, and the folder that they may not leave."""
  outer = tmp_path_factory.mktemp('odd')
  folder = outer / 'media'
  folder.mkdir()
  tenths = range(80)
  write_video(folder / 'plain.mp4', tenths, Fraction(1, 10))
  write_video(folder / 'turned.mp4', tenths, Fraction(1, 10), rotation=90)
  write_video(folder / 'varied.mp4', np.cumsum([1 + n % 3 for n in range(45)]).tolist(), Fraction(1, 10))
  (folder / 'Ünïcödé 🎬 $x_1.mp4').write_bytes((folder / 'plain.mp4').read_bytes())
  (outer / 'secret.mp4').write_bytes((folder / 'plain.mp4').read_bytes())
  (folder / 'empty.mp4').write_bytes(b'')
  (folder / 'broken.mp4').write_bytes((folder / 'plain.mp4').read_bytes()[:900])
  noise = np.random.default_rng(0).bytes(20000)
  (folder / 'encrypted.mp4').write_bytes(noise)
  (folder / 'note.mp4').write_text('no film at all')
  soundfile.write(folder / 'sound.wav', np.zeros(8000 * 8), 8000)
  with av.open(str(folder / 'still.mp4'), 'w') as out:
    stream = out.add_stream('libx264', rate=1)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8))
    frame.pts, frame.time_base = 0, Fraction(1, 1)
    out.mux([*stream.encode(frame), *stream.encode(None)])
  names = ['plain', 'turned', 'varied', 'Ünïcödé 🎬 $x_1', 'empty', 'broken', 'encrypted', 'note', 'still']
  rows = [{'id': name, 'video': f'{name}.mp4'} for name in names]
  rows += [{'id': 'plain', 'video': 'turned.mp4'}, {'id': 'out', 'video': '../secret.mp4'}]
  rows += [
    {'id': 'far', 'video': '/etc/hostname'},
    {'id': 'nul', 'video': 'a\0b'},
    {'id': 'deaf', 'video': 'sound.wav'},
  ]
  (folder / 'm.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder, len(rows)


def run(*arguments):
  gin.clear_config()  # a command is a process of its own
  return terminal.run(prepare.main, [str(argument) for argument in arguments])


FILTERS = '--gin.Curation.filters=(@Length(),@Static(),@Duplicates())'


@pytest.mark.parametrize(
  'filters',
  [[], [FILTERS, '--gin.Static.most=1.0', '--gin.Duplicates.pictures=False', '--gin.Length.least=5']],
)
def test_each_row_is_a_record_or_a_reason(odd, tmp_path, filters):
  folder, count = odd
  told = ('--manifest', folder / 'm.jsonl', '--media', folder, '--out', tmp_path / 'ds', '--workers=1')
  assert run(*told, *filters) == 0
  kept = {clip.source for clip in table.read_clips(tmp_path / 'ds')}
  assert kept == {'plain', 'turned', 'varied', 'Ünïcödé 🎬 $x_1'}
  rejected = [json.loads(line) for line in (tmp_path / 'ds' / 'rejected.jsonl').read_text().splitlines()]
  assert len(rejected) == count - len(kept) and all(row['reason'] for row in rejected)
  reasons = {row['id']: row['reason'] for row in rejected}
  assert reasons['plain'] == 'the id occurs twice'
  assert 'leads out of' in reasons['out'] and 'leads out of' in reasons['far']
  stream = MotionEncoder().stream
  for split in table.SPLITS:
    if len(table.ClipTable(tmp_path / 'ds', split)):
      data = dataset.Dataset(tmp_path / 'ds', split, (stream,))
      assert all(len(data.read(stream, n)) for n in range(len(data.clips)))


def test_a_full_disk_is_a_sentence_and_leaves_no_half(odd, tmp_path, monkeypatch, capsys):
  folder, _ = odd
  told = ('--manifest', folder / 'm.jsonl', '--media', folder, '--out', tmp_path / 'ds', '--workers=1')
  assert run(*told, '--table') == 0

  def full(path, *_):
    with files.replaced_when_done(path) as temporary:
      with open(temporary, 'wb') as file:
        file.write(b'half')
      raise OSError(errno.ENOSPC, 'No space left on device', str(path))

  with monkeypatch.context() as patched:
    patched.setattr(records, 'write_part', full)
    assert run('--out', tmp_path / 'ds', '--workers=1') == 2
  assert 'No space left on device' in capsys.readouterr().err
  assert not [path for path in (tmp_path / 'ds' / 'video').rglob('*') if 'train' in path.name]
  assert run('--out', tmp_path / 'ds', '--workers=1') == 0
