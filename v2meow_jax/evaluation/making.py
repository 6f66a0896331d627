"""Generates what is measured: resumably, and as much at once as memory allows."""

import pathlib
from collections.abc import Callable, Sequence

from v2meow_jax import errors, painter
from v2meow_jax.bundles import Bundle
from v2meow_jax.generation import results
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.score import Progress
from v2meow_jax.generation.session import Session
from v2meow_jax.generation.tasks import Task
from v2meow_jax.media import loudness


def make(
  bundle: Bundle,
  pipeline: Pipeline,
  tasks: Sequence[Task],
  out: pathlib.Path,
  *,
  dtype: str,
  together: int,
  progress: Progress,
  tell: Callable[[str], None],
) -> dict[str, str]:
  """Music for each task that has none yet, as `v2meow generate --resume` makes it; failures by task.

  Args:
    bundle, pipeline: that make it.
    tasks: what is wanted.
    out: folder of the music.
    dtype: of the stages.
    together: pieces side by side; fewer where memory does not do.
    progress: told of windows.
    tell: told when fewer are tried.
  """
  sampling, target = pipeline.sampling, loudness.MUSIC
  about = {t.name: results.describe(t.request, bundle.digest, sampling, dtype, target) for t in tasks}
  failures: dict[str, str] = {}
  while True:
    todo = [task for task in tasks if not results.complete(out, task.name, about[task.name])]
    todo = [task for task in todo if task.name not in failures]
    if not todo:
      return failures
    try:
      with painter.beside() as artist:
        session = Session(pipeline, out, sampling, target, len(tasks) == 1, artist)
        for _ in session.work(todo, about, together, progress):
          pass
    except errors.MemoryExhausted:
      if together == 1 and pipeline.rows == 1:
        raise
      together, pipeline.rows = max(1, together // 2), max(1, pipeline.rows // 2)
      tell(f'not enough memory: going on with {together} pieces and {pipeline.rows} windows at once')
      continue
    failures |= session.failures
    done = {task.name for task in todo if results.complete(out, task.name, about[task.name])}
    for task in todo:
      if task.name not in done:
        failures.setdefault(task.name, f'{task.name}: its music was not written')
