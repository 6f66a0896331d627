"""Makes odd and damaged films by a seed, and holds what is read of them against PyAV's own idea.

    python tests/hostile/odd_media.py --seconds 3600 --seed 0

runs for an hour and prints every case that fails with the seed that makes it again. The slow tests run some.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
import numpy as np

from v2meow_jax import errors
from v2meow_jax.media import audio, container, frames, mux, probe

LIMIT = 60  # seconds that a case may take
# Format of FFmpeg -> (suffix, video codecs, audio codecs) that it carries.
FORMATS = {
  'mp4': ('mp4', ('libx264', 'libx265', 'mpeg4', 'libvpx-vp9', 'mjpeg'), ('aac', 'libmp3lame', 'flac')),
  'mov': ('mov', ('libx264', 'mpeg4', 'qtrle', 'png', 'mjpeg', 'prores_ks'), ('aac', 'pcm_s16le')),
  'matroska': ('mkv', ('libx264', 'libx265', 'mpeg4', 'libvpx', 'ffv1', 'mjpeg'), ('aac', 'libopus', 'flac')),
  'webm': ('webm', ('libvpx', 'libvpx-vp9'), ('libopus',)),
  'avi': ('avi', ('libx264', 'mpeg4', 'mjpeg', 'rawvideo', 'huffyuv'), ('libmp3lame', 'pcm_s16le')),
  'mpegts': ('ts', ('libx264', 'libx265', 'mpeg2video'), ('aac', 'mp2')),
  'mpeg': ('mpg', ('mpeg1video', 'mpeg2video'), ('mp2',)),
  'flv': ('flv', ('libx264', 'flv'), ('aac', 'libmp3lame')),
  '3gp': ('3gp', ('libx264', 'mpeg4'), ('aac',)),
}
PIXELS = {
  'png': 'rgb24',
  'qtrle': 'rgb24',
  'mjpeg': 'yuvj420p',
  'prores_ks': 'yuv422p10le',
  'huffyuv': 'yuv422p',
}
FIXED = {'mpeg1video', 'mpeg2video'}  # codecs that know a few frame rates only
DAMAGES = ('none', 'none', 'none', 'cut', 'zeros', 'flips', 'hole', 'twice', 'junk')


@dataclasses.dataclass(frozen=True)
class Case:
  """A film to be made; `damage` is done to it afterwards."""

  form: str
  codec: str
  sound: str
  rate: Fraction
  size: tuple[int, int]
  count: int
  times: str
  reordered: int
  first: int
  shape: Fraction
  damage: str


def case_of(seed: int) -> Case:
  """The case of a seed."""
  rng = random.Random(seed)
  form = rng.choice(list(FORMATS))
  _, codecs, sounds = FORMATS[form]
  codec = rng.choice(codecs)
  rates = [Fraction(25), Fraction(24000, 1001), Fraction(30), Fraction(60)]
  if codec not in FIXED and form != 'mpegts':
    rates += [Fraction(1), Fraction(7), Fraction(25, 2), Fraction(1, 2)]
  timed = form in ('mp4', 'mov', 'matroska', 'webm') and codec not in FIXED
  return Case(
    form=form,
    codec=codec,
    sound=rng.choice(('', *sounds)),
    rate=rng.choice(rates),
    # libx265 overruns its own memory at the smaller ones.
    size=rng.choice(((64, 48), (48, 64), (176, 144), (322, 242))[2 * (codec == 'libx265') :]),
    # Of a frame or two, streams that are broadcast tell nothing but that they are there.
    count=rng.choice((1, 2, 9, 26)[2 * (form in ('mpeg', 'mpegts')) :]),
    times=rng.choice(('even', 'gaps', 'uneven') if timed else ('even',)),
    reordered=rng.choice((0, 2, 5)) if timed or form == 'avi' else rng.choice((0, 2)),
    first=rng.choice((0, 0, 7)) if timed and codec != 'mpeg4' else 0,
    shape=rng.choice((Fraction(1), Fraction(1), Fraction(16, 15))),
    damage=rng.choice(DAMAGES),
  )


def ticks_of(case: Case, rng: random.Random) -> list[int]:
  """Presentation times in thousandths of a frame."""
  found, now = [], case.first * 1000
  for _ in range(case.count):
    found.append(now)
    step = {'even': 1000, 'gaps': rng.choice((1000, 1000, 5000)), 'uneven': rng.randint(200, 2000)}[
      case.times
    ]
    now += step
  return found


def level(number: int) -> int:
  """Brightness by which a frame is known again."""
  return 24 + 8 * (number % 26)


def make(case: Case, path: pathlib.Path, seed: int) -> None:
  """Writes the film, undamaged."""
  rng = random.Random(seed)
  with av.open(str(path), 'w', format=case.form) as out:
    options = {'bf': str(case.reordered)} if case.codec in ('libx264', 'mpeg4', 'mpeg2video') else {}
    if case.codec == 'libx265':
      options = {'x265-params': f'log-level=error:bframes={case.reordered}'}
    stream = out.add_stream(case.codec, rate=case.rate, options=options)
    stream.width, stream.height = case.size
    stream.pix_fmt = PIXELS.get(case.codec, 'yuv420p')
    stream.codec_context.sample_aspect_ratio = case.shape
    base = 1 / case.rate if case.times == 'even' else 1 / (1000 * case.rate)
    stream.codec_context.time_base = base
    sound = None
    if case.sound:
      rate = 48_000
      sound = out.add_stream(case.sound, rate=rate, layout='stereo')
    for number, tick in enumerate(ticks_of(case, rng)):
      picture = np.full((case.size[1], case.size[0], 3), level(number), np.uint8)
      frame = av.VideoFrame.from_ndarray(picture).reformat(format=stream.pix_fmt)
      frame.pts, frame.time_base = round(Fraction(tick, 1000) / case.rate / base), base
      out.mux(stream.encode(frame))
    out.mux(stream.encode())
    if sound is not None:
      length = max(4800, int(48_000 * case.count / case.rate))
      made = av.AudioFrame.from_ndarray(
        (0.2 * np.sin(np.arange(length) * 0.05)).astype(np.float32)[None].repeat(2, 0), 'fltp', 'stereo'
      )
      made.sample_rate = 48_000
      for part in av.AudioResampler(format=sound.format, layout='stereo', rate=48_000).resample(made):
        out.mux(sound.encode(part))
      out.mux(sound.encode())


def damaged(data: bytes, damage: str, rng: random.Random) -> bytes:
  """The bytes of a file with something done to them."""
  made = bytearray(data)
  if damage == 'cut':
    return bytes(made[: rng.randrange(len(made))])
  if damage == 'zeros':
    at = rng.randrange(len(made))
    made[at : at + 400] = bytes(len(made[at : at + 400]))
  elif damage == 'flips':
    for _ in range(rng.choice((1, 10, 200))):
      made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
  elif damage == 'hole':
    at = rng.randrange(len(made))
    del made[at : at + rng.choice((1, 188, 3000))]
  elif damage == 'twice':
    made += bytes(made)
  elif damage == 'junk':
    made[:0] = rng.randbytes(rng.choice((1, 7, 500)))
  return bytes(made)


def reference(path: pathlib.Path) -> list[int]:
  """Numbers of the frames, modulo 26, as PyAV alone decodes them."""
  with av.open(str(path)) as opened:
    return [number_of(frame.to_ndarray(format='gray')) for frame in opened.decode(video=0)]


def number_of(picture: np.ndarray) -> int:
  return round((float(picture[4:-4, 4:-4].mean()) - 24) / 8) % 26


def check(case: Case, path: pathlib.Path, folder: pathlib.Path) -> None:
  """Raises AssertionError where what is read differs from what was written and from PyAV's idea."""
  info = probe.probe(path)
  assert info.video is not None, 'no video'
  assert (info.video.width, info.video.height) == case.size, 'geometry'
  with container.open_media(path) as opened:
    stream = container.video_stream(opened, path)
    zero = stream.start_time or 0
    found = [
      ((tick - zero) * stream.time_base, number_of(frame.to_ndarray(format='gray')))
      for tick, frame in frames.timed_frames(opened, stream)
    ]
  times, numbers = [float(time) for time, _ in found], [number for _, number in found]
  assert numbers == reference(path), 'order or number of frames'
  assert times == sorted(set(times)), 'times step back'
  lasting = float(1 / case.rate)
  # By the last frame that there is: the encoder may hold one back or repeat one.
  assert abs(info.video.duration - (times[-1] + lasting)) < max(2 * lasting, 0.1) or case.times != 'even', (
    'duration'
  )
  if case.sound and not case.first:
    sound, rate = audio.load_audio(path, 16_000)
    assert np.isfinite(sound).all() and len(sound) > 0 and rate == 16_000
  film = folder / 'out.mp4'
  seconds = max(0.2, info.video.duration * 0.7)
  mux.mux(path, np.full((4000, 1), 0.1, np.float32), 16_000, film, seconds)
  made = probe.probe(film)
  # A header that was counted in decoding times may say less than there is.
  least, most = min(seconds, info.video.duration), min(seconds, max(info.video.duration, times[-1] + lasting))
  assert made.video is not None and least - 0.02 < made.video.duration < most + 0.02, 'film'
  with av.open(str(film)) as opened:
    stamps = [(p.dts, p.pts) for p in opened.demux(video=0) if p.size]
  assert all(dts <= pts for dts, pts in stamps) and stamps, 'decoded after shown'


def endure(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Reads a damaged film in every way; what it cannot do it says by an InputError."""
  with contextlib.suppress(errors.InputError):
    probe.probe(path)
  with contextlib.suppress(errors.InputError):
    frames.load_frames(path, 4, (32, 32), 0.0, 2.0)
  with contextlib.suppress(errors.InputError):
    sound, _ = audio.load_audio(path, 8000, 1, 0.3, 1.0)
    assert np.isfinite(sound).all()
  for playable in (False, True):
    with contextlib.suppress(errors.InputError):
      mux.mux(path, np.zeros((8000, 1), np.float32), 8000, folder / 'out.mp4', 1.0, playable=playable)
      assert probe.probe(folder / 'out.mp4').audio is not None
  left = {entry.name for entry in folder.iterdir()} - {'out.mp4', path.name}
  assert not left, f'left behind: {left}'


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
  def late(*_):
    raise TimeoutError(f'more than {seconds} s')

  before = signal.signal(signal.SIGALRM, late)
  signal.alarm(seconds)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def run(seed: int, folder: pathlib.Path) -> Case | None:
  """Makes and checks the case of a seed; None where this build of FFmpeg cannot make it.

  Raises:
    AssertionError, TimeoutError, or whatever came through.
  """
  case = case_of(seed)
  if case.first and case.count < 9:
    return None  # of two frames FFmpeg does not find out when a Matroska file begins
  path = folder / f'film.{FORMATS[case.form][0]}'
  try:
    make(case, path, seed)
  except (av.error.FFmpegError, ValueError):
    return None
  with within(LIMIT):
    if case.damage == 'none':
      check(case, path, folder)
    else:
      path.write_bytes(damaged(path.read_bytes(), case.damage, random.Random(seed)))
      endure(path, folder)
  return case


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seconds', type=float, default=60)
  parser.add_argument('--seed', type=int, default=0, help='of the first case')
  args = parser.parse_args()
  warnings.simplefilter('ignore')
  av.logging.set_level(None)
  began, seed, made, failed = time.monotonic(), args.seed, 0, []
  while time.monotonic() - began < args.seconds:
    with tempfile.TemporaryDirectory() as folder:
      try:
        made += run(seed, pathlib.Path(folder)) is not None
      except Exception as error:
        failed.append(seed)
        print(f'seed {seed}: {type(error).__name__}: {error}\n  {case_of(seed)}', flush=True)
        if not isinstance(error, AssertionError | TimeoutError):
          traceback.print_exc(limit=-3)
    seed += 1
  print(f'{made + len(failed)} cases made of {seed - args.seed} seeds, {len(failed)} failed: {failed}')
  return bool(failed)


if __name__ == '__main__':
  sys.exit(main())
