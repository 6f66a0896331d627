"""Works tasks off, some side by side; what goes wrong with one of several is that one's own failure."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from v2meow_jax import errors
from v2meow_jax.generation import results
from v2meow_jax.generation.pipeline import Generated, Pipeline
from v2meow_jax.generation.score import Progress
from v2meow_jax.generation.tasks import Task
from v2meow_jax.painter import Painter
from v2meow_jax.sampling import Sampling


@dataclasses.dataclass(frozen=True)
class Done:
  """A piece whose files are written.

  Attributes:
    paths: of the files.
    length: of the music in seconds.
    seconds: wall time by part.
  """

  paths: list[pathlib.Path]
  length: float
  seconds: dict[str, float]


class Session:
  """Makes the pieces of several tasks, and keeps what went wrong.

  Args:
    pipeline: makes them.
    out: folder of the results.
    sampling: by stage.
    target: loudness of the music, in LUFS.
    alone: there is a single task, whose failure is raised.
    painter: draws the pictures; see `painter.beside`.

  Attributes:
    failures: by the task's name, why it has no result.
  """

  def __init__(
    self,
    pipeline: Pipeline,
    out: pathlib.Path,
    sampling: Mapping[str, Sampling],
    target: float,
    alone: bool,
    painter: Painter | None = None,
  ):
    self.pipeline, self.out, self.sampling, self.target = pipeline, out, sampling, target
    self.alone, self.painter = alone, painter
    self.failures: dict[str, str] = {}

  def work(
    self, tasks: Sequence[Task], about: Mapping[str, dict[str, Any]], together: int, progress: Progress
  ) -> Iterator[Done]:
    """Makes and writes the pieces, `together` at a time; `about` is what each one's JSON says."""
    self.out.mkdir(parents=True, exist_ok=True)
    for at in range(0, len(tasks), together):
      group = tasks[at : at + together]
      for task, made in zip(group, self._generate(group, progress), strict=True):
        done = None if made is None else self._write(task, made, about[task.name])
        if done is not None:
          yield done

  def _generate(self, group: Sequence[Task], progress: Progress) -> list[Generated | None]:
    """What was made of each; where one of several spoils it for all, each is tried alone."""
    try:
      requests = [task.request for task in group]
      return list(self.pipeline.generate_batch(requests, sampling=self.sampling, progress=progress))
    except errors.InputError as error:
      if self.alone or isinstance(error, errors.ConfigError | errors.MemoryExhausted):
        raise
      if len(group) == 1:
        self.failures[group[0].name] = str(error)
        return [None]
    return [made for task in group for made in self._generate([task], progress)]

  def _write(self, task: Task, made: Generated, about: dict[str, Any]) -> Done | None:
    began = time.perf_counter()
    given = (self.out, task.name, self.pipeline, made, task.request, about)
    try:
      paths = results.write(*given, target=self.target, painter=self.painter)
    except (errors.InputError, OSError) as error:
      if self.alone:
        raise
      # Its own failure: the others are still to be made, and its own WAV is written first.
      told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
      self.failures[task.name] = f'{task.name}: its results could not all be written ({told})'
      return None
    seconds = made.seconds | {'write': time.perf_counter() - began}
    return Done(paths, len(made.audio) / made.sample_rate, seconds)
