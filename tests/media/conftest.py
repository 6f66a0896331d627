"""Small media files made on the fly, one folder a session."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import HEIGHT, WIDTH, write_audio, write_video


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('media')


@pytest.fixture(scope='session')
def constant(folder):
  """30 frames at 10 Hz, reordered, a keyframe every 6: 3 s without audio."""
  return write_video(folder / 'constant.mp4', range(30), Fraction(1, 10))


@pytest.fixture(scope='session')
def variable_pts():
  """Milliseconds: irregular, with frames held for 0.9 and 0.5 s."""
  return [0, 33, 70, 100, 1000, 1017, 1050, 1300, 1340, 1350, 1850, 1860, 2000]


@pytest.fixture(scope='session')
def variable(folder, variable_pts):
  return write_video(folder / 'variable.mp4', variable_pts, Fraction(1, 1000))


@pytest.fixture(scope='session')
def corner():
  """A dark picture with a bright top left quarter."""
  picture = np.full((HEIGHT, WIDTH, 3), 16, np.uint8)
  picture[: HEIGHT // 2, : WIDTH // 2] = 235
  return picture


@pytest.fixture(scope='session')
def rotated(folder, corner):
  """To be turned clockwise by 90 degrees, as in the QuickTime matrix of a phone held upright."""
  path = write_video(folder / 'upright.mp4', range(5), Fraction(1, 10), picture=corner)
  data = bytearray(path.read_bytes())
  at = data.index(b'tkhd') + 4 + 40  # version and flags, five times, reserved words, layer to volume
  identity = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
  assert [int.from_bytes(data[at + 4 * i : at + 4 * i + 4], 'big') for i in range(9)] == list(identity)
  # x' = -y, y' = x with y down: what was right goes down.
  for i, value in enumerate((0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)):
    data[at + 4 * i : at + 4 * i + 4] = value.to_bytes(4, 'big', signed=True)
  path = folder / 'rotated.mp4'
  path.write_bytes(data)
  return path


@pytest.fixture(scope='session')
def tone():
  """2.5 s of stereo at 44.1 kHz: different tones left and right, float32 [samples, 2]."""
  time = np.arange(110_250) / 44_100
  return np.stack([0.3 * np.sin(2 * np.pi * f * time) for f in (440, 1000)], axis=1).astype(np.float32)


@pytest.fixture(scope='session')
def sound(folder, tone):
  return write_audio(folder / 'sound.wav', tone, 44_100, 'pcm_s16le')


@pytest.fixture(scope='session')
def truncated(folder, constant):
  """Indexed at the front, cut off after 60 % of the bytes."""
  whole = folder / 'front.mp4'
  noise = np.random.default_rng(0)
  with av.open(str(whole), 'w', options={'movflags': '+faststart'}) as container:
    stream = container.add_stream('libx264', rate=10, options={'g': '6'})
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
    for i in range(30):
      frame = av.VideoFrame.from_ndarray(noise.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
      frame.pts, frame.time_base = i, Fraction(1, 10)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  path = folder / 'truncated.mp4'
  data = whole.read_bytes()
  path.write_bytes(data[: len(data) * 6 // 10])
  return path


@pytest.fixture(scope='session')
def headless(folder, constant):
  """Truncated before the index at its end."""
  path = folder / 'headless.mp4'
  path.write_bytes(constant.read_bytes()[:-1500])
  return path


@pytest.fixture(scope='session')
def not_media(folder):
  path = folder / 'notes.mp4'
  path.write_text('Dear diary, no video here.\n' * 100)
  return path


@pytest.fixture(scope='session')
def empty(folder):
  path = folder / 'empty.mp4'
  path.touch()
  return path
