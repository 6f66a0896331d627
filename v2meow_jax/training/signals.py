"""What a run is told from outside while it trains: to stop, or to trace itself."""

import signal
import threading

from v2meow_jax import stopping


class Signals:
  """Notes signals while it is entered, instead of dying on them.

  Attributes:
    stop: SIGTERM or SIGINT came, while it is entered or before; a second SIGINT does not wait for the save.
    trace: SIGUSR1 came: a profiler trace of the next steps is wanted. The taker resets it.
  """

  def __init__(self):
    self.stop = False
    self.trace = False

  def __enter__(self):
    self.stop, self._noted, self._old = stopping.came(), False, {}
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        self._old[number] = signal.signal(number, self._note)
    return self

  def _note(self, number, frame):
    del frame
    if number == signal.SIGUSR1:
      self.trace = True
      return
    # One that came before may come again here, which is not a second one.
    if self._noted and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.stop = self._noted = True

  def __exit__(self, *exc):
    for number, handler in self._old.items():
      signal.signal(number, handler)
