"""The visualizer: a procedural video for any music, so that paired data exists in any amount.

What it makes is a procedural pairing and not real video. Motion, brightness, colour and cuts follow
the music's loudness, onsets, timbre, harmony and sections, each link loosened by gains and noise
drawn per track, because real video follows its music loosely too. A share of the films are calm ones, as of
a camera that stands: little of the picture moves, and slowly, though the music is as loud as elsewhere; of
lively films alone a model would learn that a picture that hardly moves has no sound. Every file is tagged as
procedural.

`media.curves` turns audio into curves at the frame rate, `render` turns the curves into frames, and
`visualize` does both from file to file. The same audio, configuration and seed give the same frames,
bit for bit.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np
import scipy.ndimage

from v2meow_jax import errors, files
from v2meow_jax.data import performances, true_curves
from v2meow_jax.media import audio as media_audio
from v2meow_jax.media.curves import Analysis, analyse

SAMPLE_RATE = 44100  # of the audio that is analysed and muxed
PIXEL = 2  # scenes are drawn at 1 / PIXEL of the frame's size and repeated up
_TAU = 2 * np.pi

Path = str | os.PathLike[str]
Fields = tuple[np.ndarray, np.ndarray]  # [height, width]: place in the palette in turns; light, about 0 to 1


@dataclasses.dataclass(frozen=True)
class VisualizerConfig:
  """What is drawn: frames a second, size in pixels (even, as 4:2:0 video asks), the seed, calm films' share.

  Raises errors.ConfigError where a value cannot be used.
  """

  frame_rate: int = 12
  width: int = 192
  height: int = 108
  seed: int = 0
  calm: float = 0.5

  def __post_init__(self):
    even = not (self.width % 2 or self.height % 2)
    if not (1 <= self.frame_rate <= 60 and self.seed >= 0 and even and min(self.width, self.height) >= 16):
      raise errors.ConfigError(f'{self}: frame_rate is 1 to 60, seed 0 or more, sizes even and 16 or more.')
    if not 0 <= self.calm <= 1:
      raise errors.ConfigError(f'{self}: calm is a share, 0 to 1.')


def render(analysis: Analysis, config: VisualizerConfig) -> Iterator[np.ndarray]:
  """Yields one uint8 [height, width, 3] RGB frame for every frame of the analysis.

  Raises errors.InputError, at the first frame, if the analysis is at another frame rate.
  """
  count, rate = len(analysis.energy), config.frame_rate
  if analysis.frame_rate != rate:
    raise errors.InputError(f'the analysis is at {analysis.frame_rate} frames a second, the video at {rate}.')
  rng = np.random.default_rng([config.seed, analysis.fingerprint])

  def loosely(curve: np.ndarray, smooth: float, noise: float) -> np.ndarray:
    """The curve over `smooth` seconds, at a gain drawn for this track, plus a wandering error."""
    gain = rng.uniform(0.6, 1)
    wander = scipy.ndimage.gaussian_filter1d(rng.standard_normal(count), rate * 0.6) * np.sqrt(rate)
    soft = scipy.ndimage.gaussian_filter1d(curve, rate * smooth)
    return np.clip(gain * soft + (1 - gain) * curve.mean() + noise * wander, 0, 1)

  drive = loosely(analysis.energy, 0.12, 0.04)
  light = loosely(analysis.energy, 0.05, 0.03)
  tone = loosely(analysis.timbre, 0.1, 0.05)
  pulse = rng.uniform(0.6, 1) * analysis.onset**1.5
  fade = np.exp(-1 / (rate * rng.uniform(0.1, 0.25)))
  for i in range(1, count):  # a pulse dies away over a few frames
    pulse[i] = max(pulse[i], pulse[i - 1] * fade)
  view = _View.of(np.random.default_rng([config.seed, analysis.fingerprint, 1]), config.calm)
  phase = np.cumsum(0.05 + 0.95 * drive + 0.5 * pulse) * view.pace / rate
  level = 0.2 + 0.75 * light + 0.45 * pulse
  level = level.mean() + view.light * (level - level.mean())

  bounds = [0, *view.cuts(analysis.cuts), count]
  size = -(-config.height // PIXEL), -(-config.width // PIXEL)
  tint = rng.uniform()  # or else every piece in C would look the same
  recent = []
  for start, end in itertools.pairwise(bounds):
    others = [scene for scene in _SCENES if scene not in recent[-2:]]
    recent.append(others[rng.integers(len(others))])
    draw = _stage(rng, recent[-1], *size)
    key = np.angle(np.exp(1j * _TAU * analysis.hue[start:end]).mean()) / _TAU
    dark, bright = _palettes(rng, tint + key, analysis.clarity[start:end].mean())
    chord = (analysis.hue - key + 0.5) % 1 - 0.5  # the way from the section's key, in turns

    def picture(i: int, struck: float, draw=draw, dark=dark, bright=bright, chord=chord) -> np.ndarray:
      place, lit = draw(float(phase[i]), struck)
      colours = (dark + (bright - dark) * tone[i]).astype(np.float32)
      index = ((place + float(0.3 * chord[i])) * 256).astype(np.int32) & 255
      return np.clip(colours[index] * (lit * float(level[i]))[..., None], 0, 255)

    where = view.subject(*size)
    behind = None if where is None else picture(start, 0.0)
    for i in range(start, end):
      small = picture(i, float(pulse[i]))
      if where is not None:
        small = behind + where * (small - behind)
      yield small.astype(np.uint8).repeat(PIXEL, 0).repeat(PIXEL, 1)[: config.height, : config.width]


@dataclasses.dataclass
class _View:
  """How much of what happens is seen.

  Attributes:
    pace: of all movement.
    light: share of the changes of light that is kept.
    shown: probability that a cut is one.
    radius: of the subject that moves while all else stands, in halves of the height; None: all does.
  """

  rng: np.random.Generator
  pace: float = 1.0
  light: float = 1.0
  shown: float = 1.0
  radius: float | None = None

  @classmethod
  def of(cls, rng: np.random.Generator, calm: float) -> '_View':
    """A calm film's with this probability, or else a lively one's, in which all is seen."""
    if rng.uniform() < 1 - calm:
      return cls(rng)

    def between(low: float, high: float) -> float:
      return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    return cls(rng, between(0.4, 1), between(0.03, 0.6), rng.uniform(), between(0.2, 0.9))

  def cuts(self, marks: np.ndarray) -> list[int]:
    """The frames of the cuts that are seen."""
    frames = np.flatnonzero(marks)
    return frames[self.rng.uniform(size=len(frames)) < self.shown].tolist()

  def subject(self, height: int, width: int) -> np.ndarray | None:
    """How far each pixel [height, width, 1] belongs to what moves, 0 to 1; None where all does."""
    if self.radius is None:
      return None
    aspect = width / height
    right, down = self.rng.uniform(-0.6, 0.6, 2)
    x, y = np.linspace(-aspect, aspect, width) - right * aspect, np.linspace(-1, 1, height)[:, None] - down
    return np.exp(-(((x**2 + y**2) / self.radius**2) ** 2)).astype(np.float32)[..., None]


def _palettes(rng: np.random.Generator, hue: float, clarity: float) -> list[np.ndarray]:
  """Two cyclic palettes [256, 3] of equal mean, for dark and for bright timbre; they may pass 255."""
  schemes = [(0, 0.08, -0.08, 0.04), (0, 0.5, 0.06, 0.5), (0, 0.33, 0.67, 0.1), (0, 0.15, 0.55, -0.1)]
  offsets = np.array(schemes[rng.integers(len(schemes))])[:, None]
  saturation = 0.4 + 0.5 * clarity + rng.uniform(-0.15, 0.15, (4, 1))
  value = rng.permutation([1.0, 0.9, 0.7, 0.3])[:, None]
  palettes = []
  for shift, vivid in ((-0.04, 1.3), (0.05, 0.6)):
    pure = np.clip(np.abs((hue + shift + offsets + np.array([0, -1 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
    stops = value * (1 - np.clip(saturation * vivid, 0, 1) * (1 - pure))
    knots = np.linspace(0, 256, 5)
    palette = np.stack([np.interp(np.arange(256), knots, [*c, c[0]]) for c in stops.T], 1)
    palettes.append(palette * 140 / palette.mean())
  return palettes


def _stage(rng: np.random.Generator, scene: Callable[..., Fields], height: int, width: int):
  """One section's `draw(phase, pulse) -> Fields`: a scene with its constants drawn and its look chosen."""
  aspect = width / height
  y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
  x = np.linspace(-aspect, aspect, width, dtype=np.float32)[None]
  constants = rng.uniform(size=(8, 256)).astype(np.float32)
  vignette = 1 - rng.uniform(0.05, 0.3) * (x**2 / aspect**2 + y**2).astype(np.float32)
  mirror, poster, negative = (rng.uniform(size=3) < [0.2, 0.2, 0.15]).tolist()
  levels, tempo = int(rng.integers(4, 8)), 1.0

  def draw(phase: float, pulse: float) -> Fields:
    place, lit = scene(constants, x, y, phase * tempo, pulse)
    if poster:
      place = np.floor(place * levels) / levels
    if negative:
      lit = 1.1 - lit
    if mirror:
      place, lit = (np.where(x < 0, field[:, ::-1], field) for field in (place, lit))
    return place, lit * vignette

  # Scenes come out about equally light and fast, so that both tell of the music and not of the scene.
  trial = [(draw(phase, 0.0)[1], draw(phase + 0.05, 0.0)[1]) for phase in range(5)]
  moved = np.mean([np.abs(after - before).mean() / before.mean() for before, after in trial])
  tempo = float(np.clip(0.1 / max(moved, 1e-3), 0.4, 4))
  vignette = vignette * np.float32(np.clip(0.75 / np.mean([before.mean() for before, _ in trial]), 0.5, 3))
  return draw


# A scene draws the grid x [1, width], y [height, 1] (y from -1 to 1) at a phase, of which loud music runs
# through about one a second. Its constants c are float32 [8, 256], uniform in [0, 1).


def _wave(field: np.ndarray) -> np.ndarray:
  return 0.5 + 0.5 * np.sin(_TAU * field)


def _blobs(c: np.ndarray, x: np.ndarray, y: np.ndarray, phase: float, pulse: float) -> Fields:
  count = int(6 + 24 * c[7, 0])
  right, down, rightward, downward, hues, size = c[:6, :count]
  right = np.sin(_TAU * (right + (rightward - 0.5) * phase)) * x.max()
  down = np.sin(_TAU * (down + (downward - 0.5) * phase))
  wide = (0.5 + 0.7 * size) / count**0.5 * (1 + 0.6 * pulse)
  # Gaussians are separable, so all blobs together are one small matrix product.
  columns, rows = np.exp(-(((x.T - right) / wide) ** 2)).T, np.exp(-(((y - down) / wide) ** 2))
  weight = rows @ columns
  return (rows * hues) @ columns / (weight + 1e-3), 1.15 - np.exp(-1.4 * weight)


def _stars(c: np.ndarray, x: np.ndarray, y: np.ndarray, phase: float, pulse: float) -> Fields:
  height, width = y.size, x.size
  inward, swirl = c[3, 0] < 0.5, c[3, 1] - 0.5
  depth = (c[2] + (0.2 + 0.3 * c[3, 2]) * (phase if inward else -phase)) % 1 + 0.05
  away = height * c[1] * (0.3 + 0.15 * pulse) / depth
  angle = _TAU * (c[0] + 0.5 * swirl * (phase + depth))
  column = (width / 2 + away * np.cos(angle)).astype(int)
  row = (height / 2 + away * np.sin(angle)).astype(int)
  seen = (column >= 0) & (column < width) & (row >= 0) & (row < height)
  dots = np.bincount((row * width + column)[seen], (1.1 - depth)[seen], height * width)
  dots = scipy.ndimage.maximum_filter(dots.reshape(height, width).astype(np.float32), int(2 + 2 * c[3, 3]))
  return 0.4 * (x**2 + y**2) + 0.25 * phase, np.minimum(dots * (1.2 + pulse), 1.3) + 0.2


def _stripes(c: np.ndarray, x: np.ndarray, y: np.ndarray, phase: float, pulse: float) -> Fields:
  density, onward = (0.6 + 2 * c[0, 0]) * (1 - 0.25 * pulse), phase if c[0, 6] < 0.5 else -phase
  if c[0, 1] < 0.4:  # wound about a point they are a tunnel, with a whole number of arms
    x, y = x + c[0, 2] - 0.5, y + c[0, 3] - 0.5
    side = arms = np.round(6 * c[0, 4]) * np.arctan2(y, x) / _TAU + 0.2 * phase
    lines = density / (np.hypot(x, y) + 0.2) + onward
  else:
    angle, arms = _TAU * (c[0, 2] + (c[0, 3] - 0.5) * 0.08 * phase), 0
    lines = density * (x * np.cos(angle) + y * np.sin(angle)) + onward
    side = c[0, 4] * (y * np.cos(angle) - x * np.sin(angle)) + 0.3 * phase
  lit = np.sin(_TAU * (lines + arms + 0.4 * c[0, 5] * _wave(side)))
  return (0.1 + 0.4 * c[0, 8]) * lines, 0.55 + 0.45 * np.tanh((0.8 + 4 * c[0, 7]) * lit)


def _shapes(c: np.ndarray, x: np.ndarray, y: np.ndarray, phase: float, pulse: float) -> Fields:
  nearest = np.full((y.size, x.size), 9, np.float32)
  for i in range(int(1 + 4 * c[7, 0])):
    sides, far, size, spin, orbit, start = c[:6, i].tolist()
    sides, far, orbit = int(3 + 5 * sides), far * (i > 0), 0.6 * (orbit - 0.5)
    place = _TAU * (orbit * phase + start)
    across, down = x - far * float(np.cos(place)), y - far * float(np.sin(place))
    turn = _TAU * (np.arange(sides) / sides + (spin - 0.5) * 1.2 * phase + start)
    edges = [across * float(np.cos(t)) + down * float(np.sin(t)) for t in turn]
    nearest = np.minimum(nearest, np.max(edges, 0) - (0.25 + 0.45 * size) * (1 + 0.5 * pulse))
  bands = (0.5 + 2 * c[7, 1]) * nearest
  light = 0.25 + 0.75 / (1 + np.exp(np.clip((10 + 15 * c[7, 2]) * nearest, -20, 20)))
  return bands + 0.6 * (c[7, 3] - 0.5) * phase, light * (0.6 + 0.4 * _wave(2 * bands))


def _plasma(c: np.ndarray, x: np.ndarray, y: np.ndarray, phase: float, pulse: float) -> Fields:
  total = np.zeros((y.size, x.size), np.float32)
  for across, down, speed in (c[:3, :4].T - 0.5).tolist():  # each wave bends the next
    lines = 2 * (1 - 0.3 * pulse) * (across * x + down * y) + 1.2 * speed * phase
    total = total + np.sin(_TAU * (lines + 0.12 * total))
  return (0.12 + 0.3 * c[7, 0]) * total, 0.25 + 0.75 * _wave(total * 0.5)


_SCENES: list[Callable[..., Fields]] = [_blobs, _stars, _stripes, _shapes, _plasma]


def visualize(
  audio_path: Path,
  out_path: Path,
  config: VisualizerConfig,
  mux_audio: bool = True,
  events: Path | None = None,
) -> None:
  """Writes an mp4 (H.264, and the audio as mono AAC if mux_audio) as long as the audio to half a frame.

  Where `events` names what is true of rendered music, the video follows that instead of what is measured.

  Raises errors.MediaError if the audio cannot be read, errors.DatasetError if the events cannot be used,
  OSError if the video cannot be written.
  """
  audio = media_audio.load_audio(audio_path, SAMPLE_RATE, channels=1)[0][:, 0]
  if events is None:
    analysis = analyse(audio, SAMPLE_RATE, config.frame_rate)
  else:
    truth = performances.read_truth(events)
    if abs(truth.duration - len(audio) / SAMPLE_RATE) > 0.1:
      raise errors.DatasetError(f'{events}: it is of {truth.duration:.1f} s, {audio_path} of another length')
    analysis = true_curves.analysis_of(truth, config.frame_rate)
  pieces, done = np.array_split(audio, len(analysis.energy)), 0  # one a frame, so that players need not seek
  with files.replaced_when_done(out_path) as temporary, av.open(temporary, 'w', 'mp4') as container:
    container.metadata['comment'] = 'procedural visualization of the audio, not real video'
    video = container.add_stream('libx264', rate=config.frame_rate)
    video.width, video.height, video.pix_fmt = config.width, config.height, 'yuv420p'
    video.gop_size = 2 * config.frame_rate  # clips are cut from anywhere, so seeks must be short
    # Without the macroblock tree, since x264's is not bit for bit the same from run to run.
    video.options = {'preset': 'veryfast', 'crf': '28', 'mbtree': '0'}
    video.codec_context.thread_count = 1  # batches run one file a core
    sound = container.add_stream('aac', rate=SAMPLE_RATE, layout='mono') if mux_audio else None
    for i, (picture, piece) in enumerate(zip(render(analysis, config), pieces, strict=True)):
      frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format='rgb24')
      frame.pts, frame.time_base = i, Fraction(1, config.frame_rate)
      container.mux(video.encode(frame))
      if sound:
        block = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece[None]), 'fltp', 'mono')
        block.sample_rate, block.pts, block.time_base = SAMPLE_RATE, done, Fraction(1, SAMPLE_RATE)
        container.mux(sound.encode(block))
        done += len(piece)
    container.mux(video.encode(None))
    if sound:
      container.mux(sound.encode(None))
