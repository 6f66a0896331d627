"""What strangers ask for, checked, and made one piece at a time; the page shows it."""

import contextlib
import dataclasses
import math
import pathlib
import queue
import re
import tempfile
import threading
from collections.abc import Callable, Generator
from typing import Any

from v2meow_jax import errors
from v2meow_jax.generation import results
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.generation.score import Progress
from v2meow_jax.media import container, loudness, probe
from v2meow_jax.sampling import Sampling

# A small file can hold pictures that fill all memory, and more of them than anyone waits for.
FRAME_RATE = 240  # Hz
PIXEL_RATE = 60 * container.PIXELS  # a second
TICK = 0.5  # seconds after which it is told that work goes on


@dataclasses.dataclass(frozen=True)
class Limits:
  """What is done for strangers at most.

  Attributes:
    seconds: of music.
    minutes: that uploads and results are kept.
  """

  seconds: float
  minutes: float


@dataclasses.dataclass(frozen=True)
class Working:
  """What is told while a piece is made.

  Attributes:
    ahead: how long it will take.
    parts: of those that have begun, by name: how many windows of a stage, or elements of a stream that is
      encoded, are done, and how many there are.
  """

  ahead: str
  parts: dict[str, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Made:
  """A piece that is done.

  Attributes:
    paths: of the result's files, by suffix.
    length: of the music in seconds.
    seconds: that each part took.
  """

  paths: dict[str, str]
  length: float
  seconds: dict[str, float]


class _Left(Exception):
  """Nobody waits for the result any more."""


class Studio:
  """Makes pieces one after the other.

  Args:
    pipeline: makes them.
    digest: of the pipeline's bundle.
    limits: on what is asked.
  """

  def __init__(self, pipeline: Pipeline, digest: str, limits: Limits):
    self.pipeline, self.limits, self._digest = pipeline, limits, digest
    # A piece that nobody waits for goes on to the end of a step; the next one waits for that.
    self._alone = threading.Lock()

  def make(self, wanted: Request, sampling: dict[str, Sampling]) -> Generator[Working | Made]:
    """Tells how it goes, at least twice a second, and what was made; its files are there for one step.

    Left early, the work ends with its step: a window, a block of the video or of the film, the codec.

    Raises:
      errors.InputError: the page does not allow it, the models cannot do it, or a file cannot be read.
    """
    self.check(wanted)
    ahead = str(self.pipeline.estimate([wanted], sampling)).partition(';')[0]
    parts: dict[str, tuple[int, int]] = {}
    yield Working(ahead, {})
    with (
      # Left early, the work may be writing yet.
      tempfile.TemporaryDirectory(prefix='v2meow_piece_', ignore_cleanup_errors=True) as folder,
      contextlib.closing(self._in_background(wanted, sampling, pathlib.Path(folder))) as events,
    ):
      for event in events:
        if isinstance(event, Made):
          yield event
        else:
          parts |= event
          yield Working(ahead, dict(parts))

  def check(self, wanted: Request) -> None:
    """Raises `errors.InputError` where the request asks for more than is done for strangers."""
    if wanted.seconds > self.limits.seconds:
      raise errors.ConfigError(
        f'{wanted.seconds:.0f} s are asked for, and at most {self.limits.seconds:g} s are made here; '
        'give a smaller number of seconds'
      )
    if wanted.video is not None and (shown := probe.probe(wanted.video).video) is not None:
      pixels = shown.width * shown.height
      if pixels > container.PIXELS:
        raise errors.MediaError(
          f'{wanted.video}: its pictures have {shown.width} x {shown.height} pixels; make it smaller'
        )
      # Counted, since what a file says of its frame rate need not be so.
      rate = min(FRAME_RATE, PIXEL_RATE / pixels)
      most = math.ceil(rate * (wanted.seconds + 1))
      if probe.count_pictures(wanted.video, wanted.seconds, most) > most:
        raise errors.MediaError(
          f'{wanted.video}: at {shown.width} x {shown.height} pixels more than {rate:.0f} frames a second '
          'are too many'
        )
    sound = None if wanted.style is None else probe.probe(wanted.style).audio
    if sound is not None and sound.duration > self.limits.seconds:
      raise errors.MediaError(
        f'{wanted.style}: {sound.duration:.0f} s of sound are more than {self.limits.seconds:g} s; '
        'cut out a part of it'
      )

  def _in_background(
    self, wanted: Request, sampling: dict[str, Sampling], folder: pathlib.Path
  ) -> Generator[dict[str, tuple[int, int]] | Made]:
    """What has changed of the parts, now and then nothing, and the end."""
    told: queue.SimpleQueue = queue.SimpleQueue()
    left = threading.Event()

    def watch() -> None:
      if left.is_set():
        raise _Left

    def progress(name: str, done: int, total: int) -> None:
      watch()
      told.put({name: (done, total)})

    def run() -> None:
      try:
        with self._alone:
          watch()
          told.put(self._make(wanted, sampling, folder, progress, watch))
      except Exception as error:
        told.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
      event: Any = None
      while not isinstance(event, Made):
        try:
          event = told.get(timeout=TICK)
        except queue.Empty:
          event = {}
        if isinstance(event, Exception):
          raise event
        yield event
    finally:
      left.set()

  def _make(
    self,
    wanted: Request,
    sampling: dict[str, Sampling],
    folder: pathlib.Path,
    progress: Progress,
    watch: Callable[[], None],
  ) -> Made:
    made = self.pipeline.generate_batch([wanted], sampling=sampling, progress=progress)[0]
    watch()
    dtype = self.pipeline.stages[0].model.config.dtype
    about = results.describe(wanted, self._digest, sampling, dtype, loudness.MUSIC)
    # Where files lie on this machine is nobody's business.
    asked = about['request']
    asked |= {key: pathlib.Path(asked[key]).name for key in ('video', 'style') if asked[key]}
    name = re.sub(r'[^\w-]+', '_', pathlib.Path(wanted.video or 'music').stem)[:60].strip('_') or 'music'
    paths = results.write(folder, name, self.pipeline, made, wanted, about, playable=True, watch=watch)
    length = len(made.audio) / made.sample_rate
    return Made({path.suffix[1:]: str(path) for path in paths}, length, made.seconds)
