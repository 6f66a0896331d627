"""A process beside this one that draws pictures, while this one goes on.

It is begun with code of its own, for `multiprocessing` would run the caller's script once more. Whatever goes
wrong in it is done again in this process, which then says what is wrong.
"""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator

from v2meow_jax import drawing, workers

# The first thing that it is told is where modules lie.
_CODE = (
  'import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); '
  'from v2meow_jax import painter; painter.serve()'
)
_DRAWN, _FAILED = b'.', b'!'


class Painter:
  """Draws one picture after the other.

  Args:
    process: that draws, as `beside` begins it; without one pictures are drawn here.
  """

  def __init__(self, process: subprocess.Popen | None = None):
    self._process, self._drawing = process, False

  def begin(self, *picture) -> Callable[[], None]:
    """Begins `drawing.draw(*picture)`; gives what waits until it is drawn, to be called before the next."""
    self._finished()  # one that nobody has waited for
    self._drawing = self._send(picture)
    return lambda: None if self._finished() else drawing.draw(*picture)

  def end(self) -> None:
    """Ends the process, which is killed: Python would take longer to end it than to draw a picture."""
    self._finished()
    if self._process is not None:
      self._process.kill()
      self._process.communicate()

  def _send(self, message: object) -> bool:
    if self._process is None or self._process.stdin is None:
      return False
    try:
      pickle.dump(message, self._process.stdin, pickle.HIGHEST_PROTOCOL)
      self._process.stdin.flush()
    except OSError:  # it was killed
      return False
    return True

  def _finished(self) -> bool:
    """Waits for a picture that was begun; whether there was one, and it is drawn."""
    if not self._drawing or self._process is None or self._process.stdout is None:
      return False
    self._drawing = False
    return self._process.stdout.read(1) == _DRAWN


@contextlib.contextmanager
def beside(wanted: bool = True) -> Iterator[Painter]:
  """A painter with a process of its own, where one is wanted and there is a core for it.

  To be begun early: it takes a second until it can draw.
  """
  process = None
  if wanted and workers.cores() > 1 and sys.executable:
    # A process group of its own: Ctrl-C is for this process to hear.
    command, pipe = [sys.executable, '-P', '-c', _CODE], subprocess.PIPE
    with contextlib.suppress(OSError):
      process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, process_group=0)
  painter = Painter(process)
  painter._send(sys.path)
  try:
    yield painter
  finally:
    painter.end()


def serve() -> None:
  """The process: draws what it is told by its input, until that ends with the process that began it."""
  answers = os.fdopen(os.dup(sys.stdout.fileno()), 'wb')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may answer
  from matplotlib.backends import backend_agg  # noqa: F401 what `draw` needs, before it is told to
  from matplotlib.figure import Figure  # noqa: F401

  while True:
    try:
      picture = pickle.load(sys.stdin.buffer)
    except EOFError:
      return
    try:
      drawing.draw(*picture)
      answer = _DRAWN
    except Exception:
      answer = _FAILED
    answers.write(answer)
    answers.flush()
