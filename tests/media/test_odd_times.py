"""Files that leave times out, begin them anew, or lay them so that a container refuses them."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media_files import index_of, write_audio, write_video

from v2meow_jax import errors
from v2meow_jax.media import audio, clock, container, frames, mux, probe

SOUND = np.full((48_000, 1), 0.1, np.float32)


def read(path):
  """(times in seconds, numbers of the frames) as they are decoded."""
  with container.open_media(path) as opened:
    stream = container.video_stream(opened, path)
    found = [(tick * stream.time_base, frame) for tick, frame in frames.timed_frames(opened, stream)]
    return [time for time, _ in found], [index_of(frame.to_ndarray(format='rgb24')) for _, frame in found]


def dts_and_pts(path):
  with av.open(str(path)) as opened:
    return [(packet.dts, packet.pts) for packet in opened.demux(video=0) if packet.size]


def reordered(path, codec, depth):
  """30 frames at 10 Hz in AVI, of which up to `depth` in a row are encoded out of order."""
  with av.open(str(path), 'w') as out:
    stream = out.add_stream(codec, rate=10, options={'bf': str(depth), 'b_strategy': '0', 'g': '12'})
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    stream.bit_rate = 2_000_000
    for number in range(30):
      picture = np.full((48, 64, 3), 20 + 7 * number, np.uint8)
      frame = av.VideoFrame.from_ndarray(picture)
      frame.pts, frame.time_base = number, Fraction(1, 10)
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
  return path


@pytest.mark.parametrize(('codec', 'depth'), [('libx264', 0), ('libx264', 2), ('libx264', 5), ('mpeg4', 2)])
def test_where_only_decoding_times_are_told_every_frame_is_shown_in_its_turn(tmp_path, codec, depth):
  path = reordered(tmp_path / 'a.avi', codec, depth)
  assert len(dts_and_pts(path)) >= 30
  times, numbers = read(path)
  assert numbers == list(range(30))
  np.testing.assert_allclose(np.diff([float(time) for time in times]), 0.1, atol=1e-6)
  # As training and generation read them, from the start and from a place that is sought.
  for start in (0, 10, 17):
    shown = [index_of(picture) for picture in frames.read_frames(path, 10, start=start / 10)]
    assert shown == list(range(start, 30))


@pytest.mark.parametrize(('codec', 'depth'), [('libx264', 2), ('mpeg4', 2), ('mpeg4', 0)])
def test_a_film_of_such_a_file_has_its_frames_at_their_times(tmp_path, codec, depth):
  path = reordered(tmp_path / 'a.avi', codec, depth)
  mux.mux(path, SOUND, 16_000, tmp_path / 'out.mp4')
  times, numbers = read(tmp_path / 'out.mp4')
  assert numbers == list(range(30))
  np.testing.assert_allclose([float(t - times[0]) for t in times], np.arange(30) / 10, atol=1e-3)
  assert all(dts <= pts for dts, pts in dts_and_pts(tmp_path / 'out.mp4'))


def test_a_frame_that_is_lost_moves_no_other(tmp_path):
  path = reordered(tmp_path / 'a.avi', 'libx264', 2)
  data = bytearray(path.read_bytes())
  with av.open(str(path)) as opened:
    packet = [packet for packet in opened.demux(video=0) if packet.size][4]
    place = data.index(bytes(packet)[4:])
    size = packet.size
  data[place : place + size - 8] = bytes(size - 8)
  path.write_bytes(data)
  times, numbers = read(path)
  # After the next key frame, number 12, all are where they belong.
  assert [(round(float(time) * 10), number) for time, number in zip(times, numbers, strict=True)][-18:] == [
    (number, number) for number in range(12, 30)
  ]


@pytest.mark.parametrize('rate', [1, 5, 30])
@pytest.mark.parametrize('depth', [1, 8])
def test_copied_frames_are_decoded_before_they_are_shown(tmp_path, rate, depth):
  path = tmp_path / 'a.mkv'
  with av.open(str(path), 'w') as out:
    stream = out.add_stream('libx264', rate=rate, options={'bf': str(depth)})
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    sound = out.add_stream('libopus', rate=48_000, layout='mono')
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 48_000 * 20), np.float32), format='flt', layout='mono')
    silence.sample_rate, silence.pts = 48_000, 0
    for number in range(20):
      frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 7 * number, np.uint8))
      frame.pts, frame.time_base = number, Fraction(1, rate)
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
    out.mux(sound.encode(silence))
    out.mux(sound.encode())
  mux.mux(path, SOUND, 16_000, tmp_path / 'out.mp4')
  found = dts_and_pts(tmp_path / 'out.mp4')
  decoded = [dts for dts, _ in found]
  assert all(dts <= pts for dts, pts in found) and decoded == sorted(set(decoded)) and len(found) == 20
  assert read(tmp_path / 'out.mp4')[1] == list(range(20))


@pytest.mark.parametrize('rate', [1, 7, 25])
@pytest.mark.parametrize('suffix', ['mp4', 'avi', 'ts'])
def test_a_film_ends_where_it_is_cut_whatever_its_frame_rate(tmp_path, rate, suffix):
  ticks, base = range(5 * rate), Fraction(1, rate)
  path = write_video(tmp_path / f'a.{suffix}', ticks, base, rate=rate)
  mux.mux(path, SOUND, 16_000, tmp_path / 'out.mp4', 2.5)
  made = probe.probe(tmp_path / 'out.mp4').video
  assert made.duration == pytest.approx(2.5, abs=0.011)
  shown = [index_of(p) for p in frames.read_frames(tmp_path / 'out.mp4', rate, duration=2.5 - 0.5 / rate)]
  assert shown == [number % 30 for number in range(len(shown))]  # brightness comes again


@pytest.mark.parametrize('suffix', ['ts', 'mpg'])
def test_the_clock_of_joined_recordings_goes_on(tmp_path, suffix):
  codec = 'libx264' if suffix == 'ts' else 'mpeg2video'
  one = write_video(tmp_path / f'one.{suffix}', range(25), Fraction(1, 25), codec, rate=25)
  joined = tmp_path / f'joined.{suffix}'
  joined.write_bytes(2 * one.read_bytes())
  times, numbers = read(joined)
  assert numbers == 2 * list(range(25))
  assert times == sorted(set(times))
  assert probe.probe(joined).video.duration == pytest.approx(2 * probe.probe(one).video.duration, abs=0.001)
  shown = [index_of(picture) for picture in frames.read_frames(joined, 25, start=1.2, duration=0.4)]
  at = [1.2 + number / 25 for number in range(10)]
  since = [float(time - times[0]) for time in times]
  assert shown == [numbers[max(n for n, time in enumerate(since) if time <= now + 1e-4)] for now in at]
  mux.mux(joined, SOUND, 16_000, tmp_path / 'out.mp4')
  assert read(tmp_path / 'out.mp4')[1] == numbers


def test_streams_of_an_epoch_move_together():
  class Packet:
    def __init__(self, stream_index, dts, duration):
      self.stream_index, self.dts, self.pts, self.duration = stream_index, dts, dts + 1, duration
      self.time_base = Fraction(1, 10)

  steady = clock.Steady()
  rows = [(0, 15), (1, 16), (0, 16), (1, 17), (0, 5), (1, 6), (0, 6), (1, 200), (0, 201)]
  packets = [Packet(stream, dts, 1) for stream, dts in rows]
  for packet in packets:
    steady.place(packet)
  # The second part begins where the first ends, at 18; the jump ahead where the second ends, at 20.
  assert [packet.dts for packet in packets] == [15, 16, 16, 17, 18, 19, 19, 20, 21]
  assert all(packet.pts == packet.dts + 1 for packet in packets) and steady.restarts == 2


@pytest.mark.parametrize(('suffix', 'codec'), [('mp3', 'libmp3lame'), ('aac', 'aac')])
def test_sound_whose_rate_changes_midway_is_heard_to_its_end(tmp_path, suffix, codec):
  options = {'write_xing': '0', 'id3v2_version': '0'} if suffix == 'mp3' else {}
  parts = []
  for rate, pitch in ((44_100, 440), (48_000, 880)):
    tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(2 * rate) / rate)[:, None]
    path = write_audio(tmp_path / f'{rate}.{suffix}', tone, rate, codec, options=options)
    parts.append(path.read_bytes())
  joined = tmp_path / f'joined.{suffix}'
  joined.write_bytes(b''.join(parts))
  sound, rate = audio.load_audio(joined)
  assert rate == 44_100 and len(sound) / rate == pytest.approx(4, abs=0.15)
  assert probe.probe(joined).audio.duration == pytest.approx(len(sound) / rate, abs=0.06)

  def pitch(part):
    return np.argmax(np.abs(np.fft.rfft(part[:, 0] * np.hanning(len(part))))) * rate / len(part)

  assert pitch(sound[rate // 2 : rate]) == pytest.approx(440, abs=3)
  assert pitch(sound[-rate : -rate // 2]) == pytest.approx(880, abs=3)


def test_what_ffmpeg_cannot_read_on_is_a_sentence(tmp_path):
  parts = []
  for rate in (44_100, 22_050):
    path = tmp_path / f'{rate}.ogg'
    with av.open(str(path), 'w') as out:
      stream = out.add_stream('vorbis', rate=rate, layout='stereo', options={'strict': '-2'})
      tone = 0.3 * np.sin(np.arange(2 * rate, dtype=np.float32))[None].repeat(2, 0)
      frame = av.AudioFrame.from_ndarray(tone, format='fltp', layout='stereo')
      frame.sample_rate, frame.pts = rate, 0
      out.mux(stream.encode(frame))
      out.mux(stream.encode())
    parts.append(path.read_bytes())
  chained = tmp_path / 'chained.ogg'
  chained.write_bytes(b''.join(parts))
  with pytest.raises(errors.MediaError, match=r'chained\.ogg: it cannot be read to its end'):
    audio.load_audio(chained)


def test_values_that_are_not_finite_are_a_sentence(tmp_path):
  import soundfile

  sound = np.zeros(16_000, np.float32)
  sound[500] = np.nan
  soundfile.write(tmp_path / 'a.wav', sound, 16_000, subtype='FLOAT')
  with pytest.raises(errors.MediaError, match='not finite'):
    audio.load_audio(tmp_path / 'a.wav')


def test_surround_is_mixed_down_by_its_layout():
  names = ['FL', 'FR', 'FC', 'LFE', 'BL', 'BR']
  one = np.eye(6, dtype=np.float32)
  # ITU-R BS.775: L = FL + 0.7071 FC + 0.7071 BL, over the sum of the three.
  total = 1 + 2 * 0.5**0.5
  left = np.array([1, 0, 0.5**0.5, 0, 0.5**0.5, 0]) / total
  right = np.array([0, 1, 0.5**0.5, 0, 0, 0.5**0.5]) / total
  np.testing.assert_allclose(audio.downmix(one, names), np.stack([left, right], 1), rtol=1e-6)
  np.testing.assert_allclose(audio.downmix(one, ['NONE'] * 6), np.full((6, 2), 1 / 6), rtol=1e-6)
