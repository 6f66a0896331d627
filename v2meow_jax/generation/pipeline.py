"""From a video to audio: encode what conditions the stages, run the stages, decode the tokens."""

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from v2meow_jax import errors
from v2meow_jax.bundles import Bundle
from v2meow_jax.codec.codec import Codec
from v2meow_jax.encoders import registry
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.generation import decode, request
from v2meow_jax.generation import estimate as estimates
from v2meow_jax.generation.request import Request
from v2meow_jax.generation.score import Progress, Score
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.sampling import Sampling
from v2meow_jax.streams import Stream


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
    token_encoders: of other streams that the stages make, so that a given piece can be gone on with.
    dtype: of the stages' weights and arithmetic, `float32` or `bfloat16`.
    rows: most windows that are decoded at once, each branch of guidance counting as one.
    partitioner: of the devices to decode on; by default one.

  Raises:
    errors.BundleError: a stage needs a stream that nothing before it makes, or the levels of a stream
      are not predicted in order, or what comes out is not what the codec decodes.
  """

  def __init__(
    self,
    encoders: Sequence[Encoder],
    stages: Sequence[StageRunner],
    codec: Codec,
    *,
    token_encoders: Sequence[Encoder] = (),
    dtype: str = 'float32',
    rows: int = 16,
    partitioner: Partitioner | None = None,
  ):
    _check_order(encoders, stages, codec)
    if rows < 1:
      raise errors.ConfigError(f'rows {rows} is not a positive number')
    self.encoders, self.codec, self.rows = list(encoders), codec, rows
    self.token_encoders = [*token_encoders, codec]
    self.stages = [runner.prepared(dtype) for runner in stages]
    self._generate, self._multiple = decode.generate_here, 1
    if partitioner is not None:
      self._generate = partitioner.jit(decode.generate, static_argnames=decode.STATIC)
      self._multiple = partitioner.ways(partitioner.spec(('batch',)), partitioner.mesh.shape)[0]
      self.stages = [runner.placed(partitioner) for runner in self.stages]

  @classmethod
  def load(
    cls,
    bundle: str | os.PathLike | Bundle,
    *,
    networks: Mapping[str, str] = registry.NOWHERE,
    **settings,
  ) -> 'Pipeline':
    """The pipeline of a bundle.

    Args:
      bundle: its folder, or the bundle already opened.
      networks: folder or id of a pretrained network by the name of its encoder, where it is not the one that
        the bundle names.
      **settings: of the constructor.

    Raises:
      errors.BundleError: it is none, it is damaged, or it needs a newer version.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    encoders, codec = opened.encoders(networks), opened.codec()
    return cls(encoders, opened.stages(), codec, token_encoders=opened.token_encoders(), **settings)

  def generate(
    self,
    video: str | os.PathLike | None = None,
    *,
    prompt: str | None = None,
    style: str | os.PathLike | None = None,
    beginning: str | os.PathLike | None = None,
    beginning_seconds: float | None = None,
    seed: int = 0,
    duration: float | None = None,
    sampling: Mapping[str, Sampling] | None = None,
    progress: Progress = lambda name, done, total: None,
  ) -> Generated:
    """Music for a video, a text, or both; see `Request` for what is asked.

    Args:
      video, prompt, style, beginning, beginning_seconds, seed, duration: of the request.
      sampling: by stage name, instead of the bundle's.
      progress: called as windows are done, and as the video is read; what it raises ends the work.

    Raises:
      errors.MediaError: a file cannot be read.
      errors.ConfigError: the models cannot do what is asked.
    """
    wanted = Request(video, prompt, style, beginning, beginning_seconds, seed, duration)
    return self.generate_batch([wanted], sampling=sampling, progress=progress)[0]

  def generate_batch(
    self,
    requests: Sequence[Request],
    *,
    sampling: Mapping[str, Sampling] | None = None,
    known: Sequence[Mapping[str, np.ndarray]] = (),
    progress: Progress = lambda name, done, total: None,
  ) -> list[Generated]:
    """Several pieces, of any lengths, decoded side by side; their timings are those of all together.

    Args:
      requests: what is asked for.
      sampling: by stage name, instead of the bundle's.
      known: of each request, or none: tokens [frames, depth] by the name of a stage, from the start of the
        piece, which the stage then need not make.
      progress: called as windows are done, and as the video is read; what it raises ends the work.
    """
    score, seconds = self._begin(requests, sampling, progress, whole=True)
    for piece, tokens in enumerate(known):
      for made in score.stages:
        if made.stage.name in tokens:
          made.begin(piece, tokens[made.stage.name])
    end = max(piece.duration for piece in score.pieces)
    for place in range(len(self.stages)):  # one stage after the other, so that windows share batches
      score.fill(end, place)
    seconds |= score.seconds
    began = time.perf_counter()
    made = [self._streams(score, n) for n in range(len(requests))]
    audio = [self.codec.decode(streams[self.codec.stream.name]) for streams in made]
    seconds['codec'] = time.perf_counter() - began
    lengths = [round(wanted.seconds * self.codec.sample_rate) for wanted in requests]
    return [
      Generated(sound[:length], self.codec.sample_rate, streams, seconds)
      for sound, length, streams in zip(audio, lengths, made, strict=True)
    ]

  def stream(
    self,
    video: str | os.PathLike | None = None,
    *,
    sampling: Mapping[str, Sampling] | None = None,
    progress: Progress = lambda name, done, total: None,
    **wanted,
  ) -> Iterator[Float[np.ndarray, 'samples channels']]:
    """The audio of `generate`, in blocks; see `stream_request`."""
    return self.stream_request(Request(video, **wanted), sampling=sampling, progress=progress)

  def stream_request(
    self,
    wanted: Request,
    *,
    sampling: Mapping[str, Sampling] | None = None,
    progress: Progress = lambda name, done, total: None,
  ) -> Iterator[Float[np.ndarray, 'samples channels']]:
    """Audio in blocks, each as soon as its tokens are there.

    Before the first block one window of the last stage has to be made, what that needs of the others and of
    the video, and no more. Together the blocks are what `generate` returns, up to the order of the codec's
    sums.
    """
    score, _ = self._begin([wanted], sampling, progress, whole=False)
    target, rate = self.codec.stream, self.codec.sample_rate
    layout = score.stages[-1].layouts[0]
    # The first window in full, then what each adds: few sizes, so the codec is compiled for few.
    decoder = self.codec.decoder(min(self.codec.block, layout.windows[0].stop))
    state, given, sent = decoder.start(), 0, 0
    length = round(wanted.seconds * rate)
    for window in layout.windows:
      if window.stop == given:  # by rounding, the one before reached the end
        continue
      score.fill(Fraction(window.stop) / target.rate)
      codes = score.read(0, target, given, window.stop)[:, : self._levels]
      given = window.stop
      state, audio = decoder.push(state, codes[None], last=given == layout.frames)
      if audio is not None and sent < length:
        yield audio[0, : length - sent]
        sent += audio.shape[1]
    if sent < length:  # odd strides leave the last samples out
      yield np.zeros((length - sent, self.codec.channels), np.float32)

  def estimate(
    self, requests: Sequence[Request], sampling: Mapping[str, Sampling] | None = None
  ) -> estimates.Estimate:
    """How long `generate_batch` will take, and how much memory."""
    stages = [runner.stage for runner in self.stages]
    for wanted in requests:
      request.check(wanted, self.encoders, stages)
    given = set().union(*(wanted.given for wanted in requests))
    durations = [wanted.exact for wanted in requests]
    return estimates.estimate(self.stages, self._samplings(sampling), durations, given, self.rows)

  def shown(self, made: Generated) -> list[Stream]:
    """The streams of what was made that a picture can show over time."""
    streams = [encoder.stream for encoder in self.encoders if encoder.stream.name in made.streams]
    streams += dict.fromkeys(runner.stage.target.stream for runner in self.stages)
    return [stream for stream in streams if stream.rate]

  @property
  def sampling(self) -> dict[str, Sampling]:
    """How each stage draws unless something else is asked for, by its name."""
    return {runner.stage.name: runner.sampling for runner in self.stages}

  def _samplings(self, sampling: Mapping[str, Sampling] | None) -> list[Sampling]:
    return [(sampling or {}).get(runner.stage.name, runner.sampling) for runner in self.stages]

  def _begin(
    self,
    requests: Sequence[Request],
    sampling: Mapping[str, Sampling] | None,
    progress: Progress,
    whole: bool,
  ) -> tuple[Score, dict[str, float]]:
    """The pieces, encoded whole or as far as they are asked for later, and how long that took."""
    stages = [runner.stage for runner in self.stages]
    for wanted in requests:
      request.check(wanted, self.encoders, stages)
    began = time.perf_counter()
    pieces = []
    for wanted in requests:
      piece = request.encode(wanted, self.encoders, self._beginners())
      if whole:  # before the next: each holds its file open until it is read
        self._read(piece, progress)
      pieces.append(piece)
    score = Score(
      self.stages, self._samplings(sampling), pieces, self._generate,
      rows=self.rows, multiple=self._multiple, progress=progress,
    )  # fmt: skip
    return score, {'encode': time.perf_counter() - began}

  def _read(self, piece: request.Piece, progress: Progress) -> None:
    streams = {encoder.stream.name: encoder.stream for encoder in self.encoders}
    for name, elements in piece.streams.items():
      total = streams[name].length(float(piece.duration))
      more = True
      while more:
        progress(name, len(elements), total)
        more = elements.more()

  def _beginners(self) -> list[Encoder]:
    targets = {runner.stage.target.stream.name for runner in self.stages}
    return [encoder for encoder in self.token_encoders if encoder.stream.name in targets]

  def _streams(self, score: Score, piece: int) -> dict[str, np.ndarray]:
    streams = {name: elements.all() for name, elements in score.pieces[piece].streams.items()}
    for made in score.stages:
      stream = made.stage.target.stream
      streams[stream.name] = score.read(piece, stream, 0, made.layouts[piece].frames)
    # Levels that no stage predicts are not zeros but none.
    name = self.codec.stream.name
    return streams | {name: streams[name][:, : self._levels]}

  @property
  def _levels(self) -> int:
    """Levels of the codec that stages predict: the first ones, of which it makes sound as well."""
    targets = [runner.stage.target for runner in self.stages]
    return max(target.span[1] for target in targets if target.stream.name == self.codec.stream.name)


def _check_order(encoders: Sequence[Encoder], stages: Sequence[StageRunner], codec: Codec) -> None:
  made = {encoder.stream.name: encoder.stream.width for encoder in encoders}
  for runner in stages:
    stage = runner.stage
    for condition in stage.conditions:
      name = condition.stream.name
      if made.get(name, 0) < condition.span[1]:
        raise errors.BundleError(f'stage {stage.name!r} is given {name!r}, which nothing before it makes')
    target = stage.target.stream
    if made.get(target.name, 0) != stage.target.span[0]:
      raise errors.BundleError(f'stage {stage.name!r}: levels of {target.name!r} are not predicted in order')
    made[target.name] = stage.target.span[1]
    if target.name == codec.stream.name and target != codec.stream:
      raise errors.BundleError(f'stage {stage.name!r} predicts {target}, the codec decodes {codec.stream}')
  if not made.get(codec.stream.name):
    raise errors.BundleError(f'no stage predicts {codec.stream.name!r}, which the codec decodes')
