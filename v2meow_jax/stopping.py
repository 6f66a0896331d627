"""How a command is asked to stop: SIGTERM and SIGINT become exceptions, none of which is lost.

An exception that is raised while Python collects garbage, where JAX has a callback, goes nowhere: Python says
that it is ignored, and the program goes on. So a signal that comes there comes again a moment later; and that
one came is remembered, for work that looks before it begins.
"""

import contextlib
import gc
import os
import signal
import threading
import types
from collections.abc import Iterator

AGAIN_SECONDS = 0.02
_came = False


class Stopped(BaseException):
  """SIGTERM came, and nothing else takes care of it."""


def came() -> bool:
  """Whether SIGTERM or SIGINT came since the command began, whatever became of the exception."""
  return _came


@contextlib.contextmanager
def heard() -> Iterator[None]:
  """Around a command: SIGTERM raises `Stopped`, once, and SIGINT `KeyboardInterrupt`, as often as it comes.

  Outside of the main thread, where Python has no handlers, it does nothing.
  """
  global _came
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  signal.signal(signal.SIGTERM, _raise)
  interrupted = signal.getsignal(signal.SIGINT)
  if interrupted is signal.default_int_handler:  # a shell's background work ignores it
    signal.signal(signal.SIGINT, _raise)
  try:
    yield
  finally:
    _came = False
    if interrupted is signal.default_int_handler:
      signal.signal(signal.SIGINT, interrupted)


def _raise(number: int, frame: types.FrameType | None) -> None:
  global _came
  _came = True
  if _goes_nowhere(frame):
    timer = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()
    return
  if number == signal.SIGINT:
    raise KeyboardInterrupt
  signal.signal(number, signal.SIG_IGN)  # one is enough
  raise Stopped


def _goes_nowhere(frame: types.FrameType | None) -> bool:
  """Whether an exception raised here is ignored: amid a callback of the garbage collector, or a finalizer."""
  callbacks = {getattr(callback, '__code__', None) for callback in gc.callbacks}
  while frame is not None:
    if frame.f_code in callbacks or frame.f_code.co_name == '__del__':
      return True
    frame = frame.f_back
  return False
