from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import write_audio, write_video

from v2meow_jax import errors
from v2meow_jax.media import container, probe


def test_constant_rate(constant):
  info = probe.probe(constant)
  assert info == probe.MediaInfo(str(constant), 3.0, probe.VideoInfo(64, 48, Fraction(10), 0, 3.0), None)


def test_variable_rate(variable, variable_pts):
  video = probe.probe(variable).video
  assert variable_pts[-1] / 1000 < video.duration < variable_pts[-1] / 1000 + 0.2


def test_rotation_from_the_track_matrix(rotated):
  video = probe.probe(rotated).video
  assert (video.width, video.height, video.rotation) == (48, 64, 90)


@pytest.mark.parametrize('clockwise', [0, 90, 180, 270])
def test_rotation_by_pyav(tmp_path, clockwise):
  path = write_video(tmp_path / 'a.mp4', range(3), Fraction(1, 10), rotation=-clockwise)
  assert probe.probe(path).video.rotation == clockwise


@pytest.mark.parametrize(
  'name, codec, options, padding',
  [
    ('a.aac', 'aac', {}, 2 * 1024),
    ('a.mp3', 'libmp3lame', {}, 0),
    ('b.mp3', 'libmp3lame', {'write_xing': '0'}, 2 * 1152 + 528),
    ('a.m4a', 'aac', {}, 1024),
    ('a.flac', 'flac', {}, 0),
    ('a.wav', 'pcm_s16le', {}, 0),
    ('a.mka', 'flac', {}, 0),
    ('b.mka', 'aac', {'live': '1'}, 1024),
    ('a.ts', 'aac', {}, 2 * 1024),
  ],
)
def test_audio_duration_without_a_header_too(tmp_path, tone, name, codec, options, padding):
  path = write_audio(tmp_path / name, tone, 44_100, codec, options=options)
  info = probe.probe(path)
  assert info.video is None
  assert (info.audio.sample_rate, info.audio.channels) == (44_100, 2)
  # A millisecond: the clock of Matroska and of MP4 edit lists.
  assert -0.0011 <= info.audio.duration - 2.5 <= padding / 44_100 + 0.0011
  assert info.duration == info.audio.duration


@pytest.mark.parametrize(
  'name, codec, options',
  [
    ('a.webm', 'libvpx', {'live': '1'}),
    ('a.mkv', 'libx264', {}),
    ('a.ts', 'libx264', {}),
    ('a.mp4', 'libx264', {'movflags': 'frag_keyframe+empty_moov'}),
    ('a.avi', 'mpeg4', {}),
  ],
)
def test_video_duration_without_a_header_too(tmp_path, name, codec, options):
  path = write_video(tmp_path / name, range(25), Fraction(1, 10), codec, options=options)
  assert probe.probe(path).video.duration == pytest.approx(2.5, abs=0.002)


def test_duration_reaches_to_the_end_of_the_longer_stream(tmp_path, tone):
  path = write_audio(tmp_path / 'a.mkv', tone, 44_100, 'flac', video_start=0.5, audio_start=1.0)
  info = probe.probe(path)
  assert info.video.duration == pytest.approx(2.0, abs=0.002)
  assert info.audio.duration == pytest.approx(2.5, abs=0.002)
  assert info.duration == pytest.approx(3.0, abs=0.002)


def test_cover_picture_is_no_video(tmp_path, tone):
  path = tmp_path / 'a.mp3'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libmp3lame', rate=44_100, layout='stereo')
    cover = container.add_stream('mjpeg', rate=1)
    cover.width, cover.height, cover.pix_fmt = 32, 32, 'yuvj420p'
    cover.disposition = av.stream.Disposition.attached_pic
    picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8)).reformat(format='yuvj420p')
    picture.pts, picture.time_base = 0, Fraction(1)
    packets = cover.encode(picture) + cover.encode()
    container.mux(packets)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone.T), format='fltp', layout='stereo')
    frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
    container.mux(stream.encode(frame) + stream.encode())
  with av.open(str(path)) as container:
    assert container.streams.video
  info = probe.probe(path)
  assert info.video is None and info.audio is not None


def test_cut_off_in_the_middle_is_still_described(truncated):
  assert probe.probe(truncated).video.duration == 3.0


@pytest.mark.parametrize('name', ['empty', 'not_media', 'headless'])
def test_unusable_files(request, name):
  path = request.getfixturevalue(name)
  with pytest.raises(errors.MediaError, match=path.name):
    probe.probe(path)


def test_missing_folder_picture_and_subtitles(tmp_path):
  picture, text = tmp_path / 'a.png', tmp_path / 'a.srt'
  av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8)).save(picture)
  text.write_text('1\n00:00:00,000 --> 00:00:01,000\nHello\n')
  for path, reason in (
    (tmp_path / 'none.mp4', 'no such file'),
    (tmp_path, 'folder'),
    (picture, 'not a readable video'),
    (text, 'not a readable video'),
  ):
    with pytest.raises(errors.MediaError, match=reason) as raised:
      probe.probe(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize('name', ['a.m3u8', 'a.mp4'])
def test_a_playlist_does_not_reach_other_files(tmp_path, name):
  other, evil = tmp_path / 'other.ts', tmp_path / name
  write_video(other, range(25), Fraction(1, 10), 'libx264')
  playlist = f'#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{other}\n#EXT-X-ENDLIST\n'
  for text in (playlist, f'ffconcat version 1.0\nfile {other.name}\n'):
    evil.write_text(text)
    with pytest.raises(errors.MediaError, match='not a readable video'):
      probe.probe(evil)


def test_a_colon_in_the_name(tmp_path, constant):
  path = tmp_path / 'http:a.mp4'
  path.write_bytes(constant.read_bytes())
  assert probe.probe(path).duration == 3.0


@pytest.mark.parametrize('name, codec', [('a.mp4', 'libx264'), ('a.mkv', 'libx264'), ('a.avi', 'mpeg4')])
def test_pictures_are_counted_by_their_times(tmp_path, name, codec):
  path = write_video(tmp_path / name, range(30), Fraction(1, 10), codec)
  assert probe.count_pictures(path, 60, 100) == 30
  assert probe.count_pictures(path, 1.5, 100) == 15
  assert probe.count_pictures(path, 60, 20) == 21


def test_pictures_that_grow_midway_do_not_fill_the_memory(tmp_path):
  parts = []
  for number, shape in enumerate(((48, 64), (2400, 4096))):
    picture = np.full((*shape, 3), 90, np.uint8)
    path = tmp_path / f'{number}.ts'
    write_video(path, range(10 * number, 10 * number + 10), Fraction(1, 10), 'libx264', picture=picture)
    parts.append(path.read_bytes())
  both = tmp_path / 'both.ts'
  both.write_bytes(b''.join(parts))
  seen = []
  with pytest.raises(errors.MediaError), container.open_media(both) as opened:
    for frame in opened.decode(video=0):
      seen.append((frame.width, frame.height))
  assert set(seen) == {(64, 48)}
