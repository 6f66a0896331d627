import itertools
import math
from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import index_of, write_audio, write_video
from PIL import Image

from v2meow_jax import errors
from v2meow_jax.media import container, frames


def expected_indices(path, times, rate, start, count):
  """By brute force over the list of presentation times in seconds."""
  with av.open(str(path)) as container:
    forgiven = container.streams.video[0].time_base / 2
  at = [Fraction(start) + i / Fraction(rate) + forgiven for i in range(count)]
  return [max((k for k, time in enumerate(times) if time <= each), default=0) for each in at]


TENTHS = [Fraction(i, 10) for i in range(30)]


@pytest.mark.parametrize('start', [0.0, 0.05, 0.7, 1.25, 2.9])
@pytest.mark.parametrize('rate', [1, 4, Fraction(30000, 1001), 29.97])
def test_constant_rate(constant, rate, start):
  clip = frames.load_frames(constant, rate, start=start)
  count = math.ceil(round((3.0 - start) * float(rate), 6))
  assert clip.shape == (count, 48, 64, 3) and clip.dtype == np.uint8
  found = [index_of(picture) for picture in clip]
  assert found == expected_indices(constant, TENTHS, rate, start, count)


@pytest.mark.parametrize('start', [0.0, 0.5, 1.2, 1.84])
@pytest.mark.parametrize('rate', [1, 8, 25, 60])
def test_variable_rate(variable, variable_pts, rate, start):
  clip = frames.load_frames(variable, rate, start=start, duration=0.9)
  found = [index_of(picture, len(variable_pts)) for picture in clip]
  times = [Fraction(each, 1000) for each in variable_pts]
  assert found == expected_indices(variable, times, rate, start, math.ceil(0.9 * rate))


@pytest.mark.parametrize(
  'name, codec',
  [
    ('a.mkv', 'libx264'),
    ('a.webm', 'libvpx'),
    ('a.ts', 'libx264'),
    ('a.avi', 'mpeg4'),
    ('a.h264', 'libx264'),
  ],
)
@pytest.mark.parametrize('start', [0.0, 1.6])
def test_containers(tmp_path, name, codec, start):
  # A late first frame (as in a transport stream) is time zero all the same.
  first = 0 if name == 'a.avi' else 7
  path = write_video(tmp_path / name, range(first, first + 25), Fraction(1, 10), codec)
  # Elementary streams have no times; FFmpeg takes 25 Hz.
  scale = Fraction(25, 10) if name == 'a.h264' else 1
  clip = frames.load_frames(path, 20 * scale, start=float(start / scale), duration=float(0.8 / scale))
  found = [index_of(picture, 25) for picture in clip]
  assert found == expected_indices(path, TENTHS[:25], 20, start, 16)


def test_third_of_a_second_survives_millisecond_ticks(tmp_path):
  path = write_video(tmp_path / 'a.mkv', range(30), Fraction(1, 30), rate=30)
  found = [index_of(picture) for picture in frames.load_frames(path, 30)]
  assert found == list(range(30))


def test_edit_list_that_begins_within_a_group(tmp_path):
  path = write_video(tmp_path / 'a.mp4', range(-4, 26), Fraction(1, 10))
  assert [index_of(picture) for picture in frames.load_frames(path, 10)] == list(range(4, 30))
  clip = frames.load_frames(path, 10, start=1.0, duration=0.5)
  assert [index_of(picture) for picture in clip] == list(range(14, 19))


def test_rotation(rotated, corner):
  clip = frames.load_frames(rotated, 10)
  assert clip.shape == (5, 64, 48, 3)
  expected = np.rot90(corner, -1)  # numpy turns counterclockwise
  assert np.abs(clip.astype(int) - expected).mean() < 6
  small = frames.load_frames(rotated, 10, size=(12, 16))
  assert small.shape == (5, 16, 12, 3)
  assert np.abs(small[3].astype(int) - expected[2::4, 2::4]).mean() < 6


def test_resizing_is_by_area(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (48, 64, 1), dtype=np.uint8).repeat(3, axis=2)
  path = write_video(tmp_path / 'a.mp4', range(3), Fraction(1, 10), picture=picture)
  full = frames.load_frames(path, 10)[0].astype(float)
  small = frames.load_frames(path, 10, size=(16, 12))[0]
  assert np.abs(small - full.reshape(12, 4, 16, 4, 3).mean((1, 3))).mean() < 2


@pytest.mark.parametrize('size', [(56, 56), (90, 40), (40, 120)])
def test_covering_is_scaling_and_cutting_out_the_middle_as_pillow_does(demo_clip, size):
  whole = frames.load_frames(demo_clip, 1, start=12, duration=2)
  found = np.stack(list(frames.read_frames(demo_clip, 1, size, start=12, duration=2, cover=True)))
  assert found.shape == (2, *size[::-1], 3)
  height, width = whole.shape[1:3]
  scale = max(size[0] / width, size[1] / height)
  for picture, made in zip(whole, found, strict=True):
    # Rounded down, as image processors do.
    about = max(size[0], int(width * scale + 1e-6)), max(size[1], int(height * scale + 1e-6))
    scaled = Image.fromarray(picture).resize(about, Image.BICUBIC)
    left, top = (scaled.width - size[0]) // 2, (scaled.height - size[1]) // 2
    wanted = np.asarray(scaled.crop((left, top, left + size[0], top + size[1])), np.float32)
    # FFmpeg scales luma and chroma apart, and rounds at other places.
    assert np.abs(made - wanted).mean() < 3 < 0.1 * wanted.std()


def test_cut_off_holds_the_last_frame(truncated):
  clip = frames.load_frames(truncated, 10)
  assert len(clip) == 30
  moved = [not np.array_equal(a, b) for a, b in itertools.pairwise(clip)]
  assert moved[0] and 5 < sum(moved) < 25
  assert not any(moved[-5:])


def test_beyond_the_end_holds_the_last_frame(constant):
  clip = frames.load_frames(constant, 5, start=2.5, duration=2)
  assert [index_of(picture) for picture in clip] == [25, 27] + [29] * 8


def test_streams(constant):
  pictures = frames.read_frames(constant, 1000, duration=1e6)
  taken = list(itertools.islice(pictures, 150))
  assert index_of(taken[-1]) == 1
  assert taken[0] is taken[99] and not taken[0].flags.writeable
  pictures.close()


def test_nothing_decodes(tmp_path, truncated):
  data = bytearray(truncated.read_bytes())
  at = data.index(b'mdat') + 4
  data[at:] = bytes(len(data) - at)
  path = tmp_path / 'zeros.mp4'
  path.write_bytes(data)
  with pytest.raises(errors.MediaError, match=r'zeros\.mp4'):
    frames.load_frames(path, 10)


def test_bad_input(sound, constant, empty, tmp_path, tone):
  with pytest.raises(errors.MediaError, match='no video stream'):
    frames.load_frames(sound, 10)
  with pytest.raises(errors.MediaError, match='no video stream'):
    frames.load_frames(sound, 10, duration=1)
  with pytest.raises(errors.MediaError, match='ends before'):
    frames.load_frames(constant, 10, start=3)
  with pytest.raises(errors.MediaError, match='empty'):
    frames.load_frames(empty, 10)
  for arguments in (
    {'rate': 0},
    {'rate': 1, 'start': -1},
    {'rate': 1, 'size': (0, 4)},
    {'rate': 1, 'duration': 0},
  ):
    with pytest.raises(ValueError):
      frames.load_frames(constant, **arguments)
  late = write_audio(tmp_path / 'a.mp4', tone, 44_100, 'aac', video_start=0.5)
  assert len(frames.load_frames(late, 10)) == 20


def moving(path, codec, options, count=75):
  """A bright field that moves, 25 pictures a second, with frames that refer to later ones."""
  with av.open(str(path), 'w') as out:
    stream = out.add_stream(codec, rate=25, options=options)
    stream.width, stream.height, stream.pix_fmt = 96, 64, 'yuv420p'
    for n in range(count):
      picture = np.full((64, 96, 3), 40, np.uint8)
      picture[10:40, n : n + 20] = (200, 90, 20)
      frame = av.VideoFrame.from_ndarray(picture)
      frame.pts, frame.time_base = n, Fraction(1, 25)
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return path


@pytest.mark.parametrize(
  ('codec', 'options'),
  [
    ('libx264', {'bf': '3', 'x264-params': 'b-pyramid=strict:keyint=30:scenecut=0'}),
    ('libx264', {'bf': '0'}),
    ('libx265', {'x265-params': 'bframes=4:keyint=25:log-level=none'}),
  ],
)
def test_frames_that_nobody_needs_are_not_decoded_and_the_others_are_the_same(
  tmp_path, monkeypatch, codec, options
):
  path = moving(tmp_path / 'a.mp4', codec, options)
  asked = [(12, 0.0, 3.0), (Fraction(7, 2), 0.7, 2.0), (1, 1.3, 1.0), (25, 0.0, 3.0), (3, 2.9, 2.0)]
  decoded = []
  real = container.decode_packet
  monkeypatch.setattr(container, 'decode_packet', lambda packet: decoded.extend(got := real(packet)) or got)

  def read():
    decoded.clear()
    made = [
      [picture.tobytes() for picture in frames.read_frames(path, *one[:1], (48, 32), *one[1:])]
      for one in asked
    ]
    return made, len(decoded)

  found, fewer = read()
  monkeypatch.setattr(frames, '_SKIPPABLE', ())
  expected, all_of_them = read()
  assert found == expected
  assert fewer < all_of_them or options.get('bf') == '0'


def test_several_readings_are_what_each_alone_is(tmp_path):
  path = moving(tmp_path / 'a.mp4', 'libx264', {'bf': '3'})
  readings = [
    frames.Reading(Fraction(12), (48, 32)), frames.Reading(Fraction(1), (56, 56), True),
    frames.Reading(Fraction(5, 2)),
  ]  # fmt: skip
  together = [[], [], []]
  for number, picture in frames.read_several(path, readings, 0.4, 2.1):
    together[number].append(picture)
  for reading, found in zip(readings, together, strict=True):
    alone = list(frames.read_frames(path, reading.rate, reading.size, 0.4, 2.1, reading.cover))
    np.testing.assert_array_equal(found, alone)
