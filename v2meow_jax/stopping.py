"""How a command is asked to stop: SIGTERM and SIGINT become exceptions, none of which is lost.

An exception that is raised while Python collects garbage (in its callbacks, of which JAX has one, in
finalizers and callbacks of weak references) goes nowhere: Python says that it is ignored, and the program
goes on. So a signal of which Python says so comes again a moment later; and that one came is remembered, for
work that looks before it begins.
"""

import contextlib
import os
import signal
import sys
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
  before = sys.unraisablehook

  def ignored(unraisable: 'sys.UnraisableHookArgs') -> None:
    number = _number(unraisable.exc_value)
    if number is None:
      before(unraisable)
    else:
      _again(number)

  sys.unraisablehook = ignored
  try:
    yield
  finally:
    _came = False
    sys.unraisablehook = before
    if interrupted is signal.default_int_handler:
      signal.signal(signal.SIGINT, interrupted)


def _raise(number: int, frame: types.FrameType | None) -> None:
  global _came
  _came = True
  if number == signal.SIGINT:
    raise KeyboardInterrupt
  signal.signal(number, signal.SIG_IGN)  # one is enough
  raise Stopped


def _number(error: BaseException | None) -> signal.Signals | None:
  """The signal of which `error` tells."""
  if isinstance(error, KeyboardInterrupt):
    return signal.SIGINT
  return signal.SIGTERM if isinstance(error, Stopped) else None


def _again(number: signal.Signals) -> None:
  """Python ignored the exception of a signal: the signal comes again."""
  signal.signal(number, _raise)
  timer = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), number))
  timer.daemon = True
  timer.start()
