import os
import resource
from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import index_of, write_video

from v2meow_jax import errors
from v2meow_jax.media import audio, container, frames, mux, probe


@pytest.fixture
def click():
  """3 s of mono at 44.1 kHz with a short burst at 1.5 s, float32 [samples, 1]."""
  sound = np.zeros((132_300, 1), np.float32)
  sound[66_150:66_250] = 0.8
  return sound


def packets(path):
  with av.open(str(path)) as container:
    return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def times(path):
  with av.open(str(path)) as container:
    found = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.size]
  return [float(time - found[0]) for time in found]


def test_video_is_copied_and_sound_in_time(tmp_path, constant, click):
  out = tmp_path / 'out.mp4'
  mux.mux(constant, click, 44_100, out)
  assert packets(out) == packets(constant)
  assert times(out) == times(constant)
  info = probe.probe(out)
  assert info.video == probe.probe(constant).video
  assert (info.audio.sample_rate, info.audio.channels) == (44_100, 1)
  assert abs(info.audio.duration - 3.0) <= 1024 / 44_100
  loaded, _ = audio.load_audio(out)
  assert abs(np.argmax(np.abs(loaded)) / 44_100 - 1.5) < 0.03
  pictures = frames.load_frames(out, 10)
  assert [index_of(picture) for picture in pictures] == list(range(30))
  data = out.read_bytes()
  assert data.index(b'moov') < data.index(b'mdat')
  assert os.listdir(tmp_path) == ['out.mp4']
  with av.open(str(out)) as container:
    assert container.streams.audio[0].codec_context.name == 'aac'


def test_variable_rate_keeps_its_times(tmp_path, variable, variable_pts, click):
  mux.mux(variable, click, 44_100, tmp_path / 'out.mp4')
  assert times(tmp_path / 'out.mp4') == times(variable)


def test_rotation_is_kept(tmp_path, rotated, click):
  mux.mux(rotated, click, 44_100, tmp_path / 'out.mp4')
  np.testing.assert_array_equal(frames.load_frames(tmp_path / 'out.mp4', 10), frames.load_frames(rotated, 10))


@pytest.mark.parametrize('name, codec', [('a.mkv', 'libx264'), ('a.ts', 'libx264'), ('a.webm', 'libvpx-vp9')])
def test_other_containers_start_at_zero(tmp_path, click, name, codec):
  source = write_video(tmp_path / name, range(7, 37), Fraction(1, 10), codec)
  out = tmp_path / 'out.mp4'
  mux.mux(source, click, 44_100, out)
  if name != 'a.ts':  # start codes become lengths
    assert packets(out) == packets(source)
  assert sorted(times(out)) == pytest.approx([i / 10 for i in range(30)], abs=0.001)
  with container.open_media(out) as opened:
    assert container.origin(opened) == pytest.approx(0, abs=0.001)
    assert opened.streams.video[0].codec_context.codec.canonical_name in ('h264', 'vp9')
  assert [index_of(picture) for picture in frames.load_frames(out, 10)] == list(range(30))


@pytest.mark.parametrize('rotation', [None, -90])
def test_vp8_is_encoded_as_h264(tmp_path, click, rotation):
  source = write_video(tmp_path / 'a.mkv', range(30), Fraction(1, 10), 'libvpx', rotation=rotation)
  out = tmp_path / 'out.mp4'
  mux.mux(source, click, 44_100, out, duration=2.0)
  info = probe.probe(out)
  assert info.video.rotation == (90 if rotation else 0)
  assert info.video.duration == pytest.approx(2.0, abs=0.01)
  with av.open(str(out)) as container:
    assert container.streams.video[0].codec_context.name == 'h264'
  assert [index_of(picture) for picture in frames.load_frames(out, 10)] == list(range(20))


@pytest.mark.parametrize('codec', ['mpeg4', 'libx265'])
def test_what_browsers_do_not_play_is_encoded_again_where_asked(tmp_path, click, constant, codec):
  source, out = write_video(tmp_path / 'a.mp4', range(30), Fraction(1, 10), codec), tmp_path / 'out.mp4'
  mux.mux(source, click, 44_100, out)
  assert packets(out) == packets(source)
  mux.mux(source, click, 44_100, out, playable=True)
  with av.open(str(out)) as container:
    assert container.streams.video[0].codec_context.name == 'h264'
    assert container.streams.video[0].codec_context.pix_fmt == 'yuv420p'
  assert [index_of(picture) for picture in frames.load_frames(out, 10)] == list(range(30))
  mux.mux(constant, click, 44_100, out, playable=True)
  assert packets(out) == packets(constant)


@pytest.mark.parametrize('duration', [0.45, 1.0, 1.3, 2.95, 10.0])
def test_trimming_keeps_what_decodes(tmp_path, constant, click, duration):
  out = tmp_path / 'out.mp4'
  mux.mux(constant, click, 44_100, out, duration=duration)
  wanted = min(30, int(np.ceil(round(duration * 10, 6))))
  pictures = frames.load_frames(out, 10)
  assert [index_of(picture) for picture in pictures[:wanted]] == list(range(wanted))
  # Frames encoded out of order: three B-frames, as x264 has it.
  assert wanted <= len(packets(out)) <= wanted + 3


@pytest.mark.parametrize(
  'rate, expected', [(16_000, 16_000), (48_000, 48_000), (37_800, 48_000), (176_400, 44_100)]
)
def test_sample_rates_and_stereo(tmp_path, constant, rate, expected):
  time = np.arange(rate) / rate
  sound = np.stack([np.sin(2 * np.pi * 440 * time), np.zeros(rate)], axis=1)
  mux.mux(constant, sound * 0.5, rate, tmp_path / 'out.mp4')
  loaded, got = audio.load_audio(tmp_path / 'out.mp4', channels=None)
  assert got == expected and loaded.shape[1] == 2
  assert abs(len(loaded) / got - 1.0) <= 1024 / got
  inside = loaded[got // 4 : got // 2]
  assert np.sqrt(np.mean(inside**2, axis=0)) == pytest.approx([0.5 / np.sqrt(2), 0], abs=0.01)


def test_over_its_own_source(tmp_path, constant, click):
  path = tmp_path / 'a.mp4'
  path.write_bytes(constant.read_bytes())
  mux.mux(path, click, 44_100, path)
  assert packets(path) == packets(constant) and probe.probe(path).audio is not None


def test_cut_off_source(tmp_path, truncated, click):
  mux.mux(truncated, click, 44_100, tmp_path / 'out.mp4')
  assert 10 < len(packets(tmp_path / 'out.mp4')) < 30


def test_fails_whole(tmp_path, constant, sound, truncated, click):
  out = tmp_path / 'out.mp4'
  out.write_bytes(b'before')
  with pytest.raises(FileNotFoundError):
    mux.mux(constant, click, 44_100, tmp_path / 'none' / 'out.mp4')
  with pytest.raises(errors.MediaError, match='no video stream'):
    mux.mux(sound, click, 44_100, out)
  for bad in (click[:0], click[:, 0], click * np.nan):
    with pytest.raises(ValueError):
      mux.mux(constant, bad, 44_100, out)
  noise = np.random.default_rng(0).uniform(-1, 1, (132_300, 2))
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
  try:
    with pytest.raises(OSError):
      mux.mux(constant, noise, 44_100, out)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert os.listdir(tmp_path) == ['out.mp4'] and out.read_bytes() == b'before'


def test_for_browsers_a_large_film_is_made_smaller(tmp_path, click):
  picture = np.full((1250, 2500, 3), 90, np.uint8)
  source = write_video(tmp_path / 'a.mp4', range(2), Fraction(1, 10), 'mpeg4', picture=picture)
  for playable, expected in ((True, (1920, 960)), (False, (2500, 1250))):
    out = tmp_path / f'{playable}.mp4'
    mux.mux(source, click, 44_100, out, playable=playable)
    made = probe.probe(out).video
    assert (made.width, made.height) == expected
    assert len(times(out)) == 2


@pytest.mark.parametrize('after', [0, 5])
def test_what_watch_raises_ends_the_writing(tmp_path, constant, click, after):
  calls = []

  def watch():
    calls.append(1)
    if len(calls) > after:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    mux.mux(constant, click, 44_100, tmp_path / 'out.mp4', watch=watch)
  assert len(calls) == after + 1 and not list(tmp_path.glob('*out*'))
