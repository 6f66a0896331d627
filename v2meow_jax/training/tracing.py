"""Profiler traces of some steps, planned ahead or asked for by a signal."""

import jax
from etils import epath

ASKED = 5  # steps of a trace that SIGUSR1 asks for


class Tracer:
  """Writes traces into `profile/` of a run.

  Args:
    run_dir: the run's directory.
    planned: (first, last) steps, counted from 1; None: none.
    total: steps of the run.
  """

  def __init__(self, run_dir: epath.Path, planned: tuple[int, int] | None, total: int):
    self._path, self._planned, self._total = str(run_dir / 'profile'), planned or (0, -1), total
    self._until = 0

  def before(self, step: int, asked: bool) -> bool:
    """Begins where a trace of this step is planned or asked for; whether one began."""
    first, last = self._planned
    if self._until or not (asked or step == first):
      return False
    self._until = min(step - 1 + (last - first + 1 if step == first else ASKED), self._total)
    jax.profiler.start_trace(self._path)
    return True

  def ends(self, step: int) -> bool:
    """Whether this step is the last of a trace."""
    return step == self._until

  def close(self) -> None:
    """Ends the trace under way."""
    if self._until:
      jax.profiler.stop_trace()
      self._until = 0
