"""From a video to audio: encode what conditions the stages, run the stages in turn, decode the tokens."""

import dataclasses
import functools
import itertools
import math
import time
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from v2meow_jax import errors
from v2meow_jax.codec.codec import Codec
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.generation import decode, windows
from v2meow_jax.generation.sampling import Sampling
from v2meow_jax.media import probe
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.stages import Stage
from v2meow_jax.streams import Stream, crop

Progress = Callable[[str, int, int], None]  # stage, windows done, windows in all


@dataclasses.dataclass(frozen=True)
class StageRunner:
  """A stage that is ready to run."""

  model: StageModel
  params: dict
  sampling: Sampling

  @property
  def stage(self) -> Stage:
    """What it does."""
    return self.model.stage


@dataclasses.dataclass(frozen=True)
class Generated:
  """What `Pipeline.generate` returns.

  Attributes:
    audio: float32 [samples, channels], as the codec decoded it.
    sample_rate: in Hz.
    streams: every stream that was encoded or generated, name -> [n, width].
    seconds: wall time a part of the pipeline, in the order in which they ran.
  """

  audio: Float[np.ndarray, 'samples channels']
  sample_rate: int
  streams: dict[str, np.ndarray]
  seconds: dict[str, float]


class Pipeline:
  """Video in, music out.

  Args:
    encoders: of the streams that no stage makes.
    stages: in the order in which they run.
    codec: of the last stage's stream.

  Raises:
    errors.BundleError: a stage needs a stream that nothing before it makes, or the levels of a stream
      are not predicted in order, or what comes out is not what the codec decodes.
  """

  def __init__(self, encoders: list[Encoder], stages: list[StageRunner], codec: Codec):
    self.encoders, self.stages, self.codec = encoders, stages, codec
    made = {encoder.stream.name: encoder.stream.width for encoder in encoders}
    for runner in stages:
      stage = runner.stage
      for condition in stage.conditions:
        name = condition.stream.name
        if made.get(name, 0) < condition.span[1]:
          raise errors.BundleError(f'stage {stage.name!r} is given {name!r}, which nothing before it makes')
      target = stage.target.stream
      if made.get(target.name, 0) != stage.target.span[0]:
        raise errors.BundleError(
          f'stage {stage.name!r}: levels of {target.name!r} are not predicted in order'
        )
      made[target.name] = stage.target.span[1]
      if target.name == codec.stream.name and target != codec.stream:
        raise errors.BundleError(f'stage {stage.name!r} predicts {target}, the codec decodes {codec.stream}')
    if not made.get(codec.stream.name):
      raise errors.BundleError(f'no stage predicts {codec.stream.name!r}, which the codec decodes')

  def generate(
    self,
    video: str,
    *,
    seed: int = 0,
    duration: float | None = None,
    sampling: Mapping[str, Sampling] | None = None,
    progress: Progress = lambda name, done, total: None,
  ) -> Generated:
    """Music for a video file.

    Args:
      video: path.
      seed: same seed, bundle and machine: same bits.
      duration: seconds from the start of the video; all of it by default.
      sampling: by stage name, instead of the bundle's.
      progress: called as windows are done.

    Raises:
      errors.MediaError: the video cannot be read.
    """
    info = probe.probe(video)
    if info.video is None:
      raise errors.MediaError(f'{video}: there is no video stream in it')
    length = info.video.duration if duration is None else min(duration, info.video.duration)
    if length < 0.5:
      raise errors.MediaError(f'{video}: {length:.2f} s of video are too short to make music for')
    seconds: dict[str, float] = {}
    streams: dict[str, np.ndarray] = {}
    clip = MediaClip(str(video), None, 0.0, length)
    for encoder in self.encoders:
      began = time.perf_counter()
      streams[encoder.stream.name] = encoder.encode_clip(clip)
      seconds[encoder.stream.name] = time.perf_counter() - began
    # A clip's key depends on the seed alone, a stage's on its place: nothing else that is generated
    # beside it changes the music.
    root = jax.random.key(seed)
    exact = Fraction(length).limit_denominator(10**6)
    for runner in self.stages:
      began = time.perf_counter()
      key = jax.random.fold_in(root, zlib.crc32(runner.stage.name.encode()))
      chosen = (sampling or {}).get(runner.stage.name, runner.sampling)
      report = functools.partial(progress, runner.stage.name)
      self._run(runner, chosen, streams, exact, key, report)
      seconds[runner.stage.name] = time.perf_counter() - began
    began = time.perf_counter()
    audio = self.codec.decode(streams[self.codec.stream.name])
    seconds['codec'] = time.perf_counter() - began
    return Generated(
      audio[: round(length * self.codec.sample_rate)], self.codec.sample_rate, streams, seconds
    )

  def _run(
    self,
    runner: StageRunner,
    sampling: Sampling,
    streams: dict[str, np.ndarray],
    duration: Fraction,
    key: jax.Array,
    progress: Callable[[int, int], None],
  ) -> None:
    """Generates a stage's levels over the whole clip, window by window, into `streams`."""
    stage = runner.stage
    target = stage.target
    frames = math.ceil(duration * target.stream.rate)
    made = np.zeros((0, target.depth), np.int32)
    grid = min(stream.rate for stream in stage.streams if stream.rate)
    places = windows.starts(duration, stage.crop_seconds, sampling.overlap, grid)
    if target.stream.index(places[-1]) + stage.frames < frames:
      places[-1] += 1 / grid  # rounding to elements had left the last one out
    firsts = [target.stream.index(start) for start in places]
    # The same number of frames is carried into every window, so that the loop is compiled once for all.
    carried = max(0, min((a + stage.frames - b for a, b in itertools.pairwise(firsts)), default=0))
    for number, (start, first) in enumerate(zip(places, firsts, strict=True)):
      known = made[first : first + carried]
      tokens = decode.generate(
        runner.model,
        runner.params,
        window_batch(stage, streams, start),
        jnp.asarray(known)[None],
        jax.random.fold_in(key, number)[None],
        sampling,
      )
      # Without overlap, rounding can leave a frame between two windows: the last one made is held.
      hole = made[-1:].repeat(max(0, first - len(made)), 0)
      made = np.concatenate([made[:first], hole, np.asarray(tokens)[0]])
      progress(number + 1, len(places))
    lower = streams.get(target.stream.name, np.zeros((frames, 0), np.int32))
    streams[target.stream.name] = np.concatenate([lower, made[:frames]], 1)


def window_batch(stage: Stage, streams: Mapping[str, np.ndarray], start: Fraction) -> dict[str, jax.Array]:
  """A batch of one: the conditions of a window, and the target's offset."""

  def read(stream: Stream, first: int, stop: int) -> np.ndarray:
    found = streams.get(stream.name, np.zeros((0, stream.width)))[first:stop]
    # Levels that are still to be made are zeros; no stage reads them.
    return np.pad(found, ((0, 0), (0, stream.width - found.shape[1])))

  example = {}
  for stream in stage.streams:
    example |= crop(stream, functools.partial(read, stream), start, stage.crop_seconds)
  return {name: jnp.asarray(value)[None] for name, value in example.items()}
