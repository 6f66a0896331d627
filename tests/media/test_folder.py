"""The videos of a folder: by what is in the files, with a reason for every other one."""

from fractions import Fraction

import numpy as np
import pytest
from media_files import write_audio, write_video

from v2meow_jax import errors
from v2meow_jax.media import folder


def test_files_are_looked_into(tmp_path):
  for name in ('a.mp4', 'b.mts', 'c.gif', 'd.data'):
    suffix = {'c.gif': 'gif', 'b.mts': 'mpegts', 'd.data': 'matroska'}.get(name)
    if name == 'c.gif':
      import av

      with av.open(str(tmp_path / name), 'w', format=suffix) as out:
        stream = out.add_stream('gif', rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'rgb8'
        for number in range(3):
          frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 60 * number, np.uint8)).reformat(
            format='rgb8'
          )
          frame.pts = number
          out.mux(stream.encode(frame))
        out.mux(stream.encode())
    else:
      source = write_video(tmp_path / f'x.{"ts" if suffix == "mpegts" else "mkv"}', range(5), Fraction(1, 10))
      source.rename(tmp_path / name)
  (tmp_path / '._a.mp4').write_bytes(b'\0\5\x16\7')  # as macOS leaves it on other systems' disks
  (tmp_path / 'sub.mp4').mkdir()
  (tmp_path / 'notes.txt').write_text('x')
  (tmp_path / 'broken.mp4').write_bytes(b'nothing')  # meant to be a video: it is told by whoever reads it
  (tmp_path / 'other.bin').write_bytes(b'nothing')
  write_audio(tmp_path / 'song.wav', np.zeros((800, 1)), 8000, 'pcm_s16le')
  videos, passed = folder.look(tmp_path)
  assert [path.name for path in videos] == ['a.mp4', 'b.mts', 'broken.mp4', 'c.gif', 'd.data']
  assert {path.name: why for path, why in passed.items()} == {
    '._a.mp4': 'hidden',
    'notes.txt': 'no video',
    'other.bin': 'not a video',
    'song.wav': 'no pictures in it',
    'sub.mp4': 'a folder',
  }


def test_a_folder_that_is_none_is_a_sentence(tmp_path):
  with pytest.raises(errors.MediaError, match='no such folder'):
    folder.look(tmp_path / 'none')
