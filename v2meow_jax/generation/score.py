"""Pieces of music in the making: every stage's tokens, window by window, as far as they are asked for."""

import dataclasses
import functools
import itertools
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from v2meow_jax import errors, programs, runtime
from v2meow_jax.generation import guidance, windows
from v2meow_jax.generation.request import Piece
from v2meow_jax.generation.windows import Layout, Window
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.sampling import Sampling
from v2meow_jax.streams import Stream

# Of a stage by name: windows done, and in all; of a stream that is encoded: elements.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Job:
  """One row of a batch: a window of a piece."""

  piece: int
  window: Window
  known: int
  prefilled: int


def _fold(
  seeds: UInt32[Array, ' rows'],
  marks: UInt32[Array, ' rows'],
  marked: Bool[Array, ' rows'],
  stage: UInt32[Array, ''],
  windows: UInt32[Array, ' rows'],
) -> Array:
  """A key a row, of its seed, of its video's mark where there is one, of the stage and of the window."""

  def one(seed, mark, there, window):
    key = jax.random.key(seed)
    key = jax.lax.cond(there, lambda: jax.random.fold_in(key, mark), lambda: key)
    return jax.random.fold_in(jax.random.fold_in(key, stage), window)

  return jax.vmap(one)(seeds, marks, marked, windows)


_folded = programs.Kept(_fold)


class StageScore:
  """What one stage has made of each piece so far."""

  def __init__(self, runner: StageRunner, sampling: Sampling, pieces: Sequence[Piece]):
    guidance.check(runner.stage, sampling.guidance)
    self.runner, self.sampling, self.stage = runner, sampling, runner.stage
    self.layouts: list[Layout] = [
      windows.layout(self.stage, piece.duration, sampling.overlap) for piece in pieces
    ]
    self.made: list[Int[np.ndarray, 'frames depth']] = []
    self.done = [0] * len(pieces)  # windows
    self.begun: list[int] = []  # frames that were there from the start
    target = self.stage.target
    for piece, layout in zip(pieces, self.layouts, strict=True):
      beginning = piece.beginning.get(target.stream.name, np.zeros((0, target.stream.width), np.int32))
      self.made.append(beginning[: layout.frames, slice(*target.span)].astype(np.int32))
      self.begun.append(len(self.made[-1]))

  def begin(self, piece: int, tokens: Int[np.ndarray, 'frames depth']) -> None:
    """Takes tokens that are known from the start, before any are made."""
    self.made[piece] = tokens[: self.layouts[piece].frames].astype(np.int32)
    self.begun[piece] = len(self.made[piece])

  @property
  def progress(self) -> tuple[int, int]:
    """Windows done, and in all."""
    return sum(self.done), sum(len(layout.windows) for layout in self.layouts)

  def jobs(self, until: Fraction) -> list[Job]:
    """Windows that can be run now, of those that cover the time up to `until`."""
    found = []
    for n, layout in enumerate(self.layouts):
      wanted = min(layout.frames, -(-until * self.stage.target.stream.rate // 1))
      ahead = len(self.made[n])
      for window in layout.windows[self.done[n] :]:
        if window.stop <= len(self.made[n]):
          self.done[n] += 1  # the beginning that was given covers it
          continue
        if ahead >= wanted:
          break
        found.append(self._job(n, window, layout))
        ahead = window.stop
        if not layout.independent:
          break
    return found

  def _job(self, piece: int, window: Window, layout: Layout) -> Job:
    # Windows that do not depend on each other must not, whichever of them happen to be there already.
    there = self.begun[piece] if layout.independent else len(self.made[piece])
    known = min(max(0, there - window.first), self.stage.frames)
    if window.number and not layout.independent:
      return Job(piece, window, known, min(known, layout.carried))
    # Beginnings of all lengths share a few compiled programs; the rest of them is fed step by step.
    part = max(1, self.stage.frames // 8)
    return Job(piece, window, known, known // part * part)

  def append(self, job: Job, tokens: Int[np.ndarray, 'frames depth']) -> None:
    """Takes a window's tokens."""
    made, window = self.made[job.piece], job.window
    # Without overlap, rounding can leave a frame between two windows: the last one made is held.
    hole = made[-1:].repeat(max(0, window.first - len(made)), 0)
    new = tokens[max(0, len(made) - window.first) : window.stop - window.first]
    self.made[job.piece] = np.concatenate([made, hole, new])
    self.done[job.piece] += 1


class Score:
  """Several pieces in the making.

  Tokens of a stage are made when a later one needs them, and each window's are drawn with a key of seed,
  video, stage and window alone. So a piece does not depend on what else is made, nor on how far at once.

  Args:
    runners: the stages, in the order in which they run.
    samplings: of each stage.
    pieces: to be made.
    generate: `decode.generate`, compiled.
    rows: most windows that are decoded at once, branches of guidance included.
    multiple: rows are filled up to a multiple of it.
    progress: called as windows are done.
  """

  def __init__(
    self,
    runners: Sequence[StageRunner],
    samplings: Sequence[Sampling],
    pieces: Sequence[Piece],
    generate: Callable,
    *,
    rows: int = 16,
    multiple: int = 1,
    progress: Progress = lambda name, done, total: None,
  ):
    self.pieces, self._generate, self._progress = list(pieces), generate, progress
    self._rows, self._multiple = rows, multiple
    self.stages = [StageScore(*pair, pieces) for pair in zip(runners, samplings, strict=True)]
    self.given = set().union(*(piece.given for piece in pieces))
    self.seconds = {runner.stage.name: 0.0 for runner in runners}

  def fill(self, until: Fraction, place: int = -1) -> None:
    """Makes the tokens of a stage, by default the last, up to `until` seconds, and what they need."""
    place %= len(self.stages)
    score = self.stages[place]
    while jobs := score.jobs(until):
      end = max(job.window.start for job in jobs) + score.stage.crop_seconds
      for earlier in range(place):
        if self.stages[earlier].stage.target.stream in score.stage.streams:
          self.fill(end, earlier)
      began = time.perf_counter()
      for group in self._batches(score, jobs):
        self._run(score, group)
        self._progress(score.stage.name, *score.progress)
      self.seconds[score.stage.name] += time.perf_counter() - began

  def _batches(self, score: StageScore, jobs: list[Job]) -> Iterator[list[Job]]:
    """Jobs that can share a program, as many as fit."""
    branches = len(guidance.branches(score.stage, score.sampling, self.given).weights)
    size = max(1, self._rows // branches)
    ordered = sorted(jobs, key=lambda job: job.prefilled)
    for _, alike in itertools.groupby(ordered, key=lambda job: job.prefilled):
      group = list(alike)
      yield from (group[at : at + size] for at in range(0, len(group), size))

  def _run(self, score: StageScore, jobs: list[Job]) -> None:
    stage, sampling = score.stage, score.sampling
    branches = guidance.branches(stage, sampling, self.given)
    # A power of two, so that few shapes are compiled; the last row is repeated.
    count = 1 << (len(jobs) - 1).bit_length()
    count = -(-count // self._multiple) * self._multiple
    rows = [*jobs, *[jobs[-1]] * (count - len(jobs))]
    known = np.zeros((count, stage.frames, stage.target.depth), np.int32)
    for row, job in zip(known, rows, strict=True):
      tail = score.made[job.piece][job.window.first : job.window.first + job.known]
      row[: len(tail)] = tail
    examples = [stage.crop(functools.partial(self.read, job.piece), job.window.start) for job in rows]
    batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    arguments = (
      batch,
      known,
      np.asarray([job.known for job in rows], np.int32),
      self._keys(stage.name, rows),
      np.int32(max(job.window.stop - job.window.first for job in jobs)),
      sampling.knobs(),
      sampling.banned(stage.target.depth, stage.target.stream.codes),
      branches.dropped,
      branches.weights,
    )
    settings = {'prefilled': jobs[0].prefilled, 'candidates': sampling.candidates(stage.target.stream.codes)}
    try:
      tokens = np.asarray(self._generate(score.runner.model, score.runner.params, *arguments, **settings))
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error) and 'ut of memory' not in str(error):
        raise
      raise errors.MemoryExhausted(
        f'stage {stage.name!r}: {count} rows of {len(branches.weights)} branches do not fit into memory; '
        'decode fewer rows at once, use bfloat16, or guide by less'
      ) from error
    runtime.give_back()
    for row, job in zip(tokens, jobs, strict=False):
      score.append(job, row)

  def _keys(self, stage: str, jobs: Sequence[Job]) -> jax.Array:
    """Random keys of a stage's windows."""
    pieces = [self.pieces[job.piece] for job in jobs]
    return _folded(
      np.asarray([piece.seed for piece in pieces], np.uint32),
      np.asarray([piece.mark or 0 for piece in pieces], np.uint32),
      np.asarray([piece.mark is not None for piece in pieces]),
      np.uint32(zlib.crc32(stage.encode())),
      np.asarray([job.window.number for job in jobs], np.uint32),
    )

  def read(self, piece: int, stream: Stream, first: int, stop: int) -> np.ndarray:
    """Elements of a stream of a piece, as far as they are there."""
    found = self.pieces[piece].streams.get(stream.name)
    if found is not None:
      return found.read(first, stop)
    parts = [(s.stage.target.span, s.made[piece]) for s in self.stages if s.stage.target.stream == stream]
    length = max((len(made) for _, made in parts), default=0)
    # Levels that are still to be made are zeros; no stage reads them.
    values = np.zeros((max(0, min(stop, length) - first), stream.width), np.int32)
    for span, made in parts:
      part = made[first:stop]
      values[: len(part), slice(*span)] = part
    return values
