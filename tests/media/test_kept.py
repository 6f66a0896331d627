"""What is encoded again keeps its shape, its colours and how it is turned; what is copied its tags."""

from fractions import Fraction

import av
import numpy as np
import pytest

from v2meow_jax.media import colours, frames, mux, orientation, probe

SOUND = np.full((48_000, 1), 0.1, np.float32)
QUARTER = 1 << 16


def written(path, codec='libx264', pixels='yuv420p', matrix=None, picture=None, options=None, **told):
  """Half a second at 10 Hz; what is told is set on the encoder."""
  with av.open(str(path), 'w') as out:
    stream = out.add_stream(codec, rate=10, options=options or {})
    stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
    for name, value in told.items():
      setattr(stream.codec_context, name, value)
    if matrix is not None:
      stream.set_display_matrix(matrix)
    for number in range(5):
      shown = np.full((48, 64, 3), 90, np.uint8) if picture is None else picture
      frame = av.VideoFrame.from_ndarray(shown, format='rgb24').reformat(format=pixels)
      frame.pts, frame.time_base = number, Fraction(1, 10)
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
  return path


def told(path):
  with av.open(str(path)) as opened:
    stream = opened.streams.video[0]
    context = stream.codec_context
    return {
      'codec': context.codec.canonical_name,
      'tag': context.codec_tag,
      'shape': stream.sample_aspect_ratio,
      'primaries': context.color_primaries,
      'curve': context.color_trc,
      'matrix': context.colorspace,
    }


def test_the_shape_of_pixels_and_the_colours_are_kept(tmp_path):
  # MPEG-2 in a program stream has no true times, so it is encoded again.
  settings = {'sample_aspect_ratio': Fraction(4, 3), 'color_primaries': 5, 'color_trc': 6, 'colorspace': 5}
  source = written(tmp_path / 'dvd.mpg', 'mpeg2video', **settings)
  mux.mux(source, SOUND, 16_000, tmp_path / 'out.mp4')
  ours, theirs = told(tmp_path / 'out.mp4'), told(source)
  assert ours['codec'] == 'h264' and theirs['shape'] == Fraction(4, 3)
  for name in ('shape', 'primaries', 'curve', 'matrix'):
    assert ours[name] == theirs[name], name


def test_hevc_has_the_tag_that_apples_players_want(tmp_path):
  source = written(tmp_path / 'a.mkv', 'libx265', options={'x265-params': 'log-level=error'})
  mux.mux(source, SOUND, 16_000, tmp_path / 'out.mp4')
  assert told(tmp_path / 'out.mp4')['tag'] == 'hvc1'


MATRICES = {
  'upright': (QUARTER, 0, 0, 0, QUARTER, 0, 0, 0, 1 << 30),
  'clockwise': (0, QUARTER, 0, -QUARTER, 0, 0, 0, 0, 1 << 30),
  'upside down': (-QUARTER, 0, 0, 0, -QUARTER, 0, 0, 0, 1 << 30),
  'anticlockwise': (0, -QUARTER, 0, QUARTER, 0, 0, 0, 0, 1 << 30),
  'mirrored': (-QUARTER, 0, 0, 0, QUARTER, 0, 0, 0, 1 << 30),
  'flipped': (QUARTER, 0, 0, 0, -QUARTER, 0, 0, 0, 1 << 30),
  'transposed': (0, QUARTER, 0, QUARTER, 0, 0, 0, 0, 1 << 30),
  'transversed': (0, -QUARTER, 0, -QUARTER, 0, 0, 0, 0, 1 << 30),
}


@pytest.mark.parametrize('name', MATRICES)
def test_pictures_are_read_and_encoded_as_they_are_displayed(tmp_path, name):
  picture = np.full((48, 64, 3), 20, np.uint8)
  picture[:16, :48] = 230  # no symmetry of the rectangle leaves it as it is
  source = written(tmp_path / 'a.mov', 'qtrle', 'rgb24', MATRICES[name], picture)
  # By definition: a step to the right in the picture leads to (a, b) on the screen, one down to (c, d).
  a, b, _, c, d, *_ = MATRICES[name]
  across, down = (round(a / QUARTER), round(b / QUARTER)), (round(c / QUARTER), round(d / QUARTER))
  height, width = (64, 48) if across[0] == 0 else (48, 64)
  shown = np.zeros((height, width, 3), np.uint8)
  for y, x in np.ndindex(48, 64):
    # Leftwards and upwards the first pixel comes last.
    at = [x * across[n] + y * down[n] - (across[n] + down[n] < 0) for n in (0, 1)]
    shown[at[1] % height, at[0] % width] = picture[y, x]
  read = next(frames.read_frames(source, 10))
  assert read.shape == shown.shape and np.abs(read.astype(int) - shown).max() < 12
  assert (probe.probe(source).video.width, probe.probe(source).video.height) == (width, height)
  mux.mux(source, SOUND, 16_000, tmp_path / 'out.mp4')  # encoded again: MP4 has no QuickTime animation
  assert told(tmp_path / 'out.mp4')['codec'] == 'h264'
  again = next(frames.read_frames(tmp_path / 'out.mp4', 10))
  assert again.shape == shown.shape
  assert np.abs(again.astype(int) - shown)[4:-4, 4:-4].mean() < 12


def test_an_orientation_turns_arrays_as_the_matrix_does():
  grid = np.arange(6).reshape(2, 3)
  assert orientation.Orientation(True, 0).applied(grid).tolist() == [[2, 1, 0], [5, 4, 3]]
  assert orientation.Orientation(False, 1).applied(grid).tolist() == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.parametrize(('curve', 'number'), [('pq', 16), ('hlg', 18)])
def test_hdr_becomes_what_every_screen_shows_where_a_film_must_play(tmp_path, curve, number):
  settings = {'color_primaries': 9, 'color_trc': number, 'colorspace': 9}
  grey = np.full((48, 64, 3), 128, np.uint8)
  options = {'x265-params': 'log-level=error'}
  source = written(tmp_path / 'a.mkv', 'libx265', 'yuv420p10le', None, grey, options, **settings)
  mux.mux(source, SOUND, 16_000, tmp_path / 'out.mp4', playable=True)
  found = told(tmp_path / 'out.mp4')
  assert found['codec'] == 'h264'
  assert (found['primaries'], found['curve'], found['matrix']) == (1, 1, 1)
  made = next(frames.read_frames(tmp_path / 'out.mp4', 10)).astype(float)
  wanted = 255 * colours.to_709(np.full((1, 3), 128 / 255), number)[0]
  assert np.abs(made - wanted).max() < 6
  # Copied where it need not play everywhere: nothing of it is lost.
  mux.mux(source, SOUND, 16_000, tmp_path / 'copy.mp4')
  assert told(tmp_path / 'copy.mp4')['curve'] == number


def test_hdr_curves_are_the_published_ones():
  # BT.2100 and BT.2408: 58 % of PQ is 203 cd/m2, 75 % of HLG is 203 on a screen of 1,000.
  assert colours.pq(np.float64(0.5807)) == pytest.approx(203, rel=0.002)
  assert colours.pq(np.float64(1)) == pytest.approx(10_000)
  assert colours.hlg(np.full((1, 3), 0.75))[0] == pytest.approx([203] * 3, rel=0.005)
  assert colours.hlg(np.ones((1, 3)))[0] == pytest.approx([1000] * 3, rel=1e-3)
  # Black and the peak are the ends of the scale, greys stay grey and rise.
  ramp = colours.to_709(np.linspace(0, 1, 101)[:, None].repeat(3, 1), 16)
  assert ramp[0].max() == 0 and ramp[-1].min() > 0.999
  assert np.ptp(ramp, axis=1).max() < 1e-3 and (np.diff(ramp[:, 0]) >= 0).all()


def test_frames_of_a_range_of_their_own_come_out_as_bright(tmp_path):
  source = written(tmp_path / 'a.mkv', 'mjpeg', 'yuvj420p')
  mux.mux(source, SOUND, 16_000, tmp_path / 'out.mp4', playable=True)
  before, after = (next(frames.read_frames(path, 10)) for path in (source, tmp_path / 'out.mp4'))
  assert abs(before.mean() - after.mean()) < 3
