"""How a command speaks: bad input in one sentence, long work in one line that is updated."""

import argparse
import contextlib
import io
import logging
import math
import os
import pathlib
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from v2meow_jax import errors, names, runtime, stopping, stores

# Between two lines about the same work where the output is no terminal.
LINE_SECONDS = 30.0
TERMINATED = 143  # as the shell has it of a process that SIGTERM ended
_hushing = False
AGAIN = 75  # EX_TEMPFAIL: not finished, run it again


def run(main: Callable[[list[str]], int | None], argv: list[str], stopped: int = TERMINATED) -> int:
  """Exit status of a command: 2 and one sentence on standard error where the input is at fault.

  `--debug` anywhere shows the traceback as well.

  Args:
    main: the command.
    argv: its arguments.
    stopped: exit status where SIGTERM ends it.
  """
  debug = '--debug' in argv
  argv = [argument for argument in argv if argument != '--debug']
  try:
    with stopping.heard():  # before all else, for a launcher may stop what has just begun
      _set_up(debug)
      return main(argv) or 0
  except errors.InputError as error:
    failure, message = error, first_part(error)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except OSError as error:
    where = f'{error.filename}: ' if error.filename else ''
    failure, message = error, f'{where}{error.strerror or first_part(error)}'
  except stopping.Stopped:
    say('v2meow: stopped by a signal')
    return stopped
  except KeyboardInterrupt:
    print('v2meow: interrupted', file=sys.stderr)
    return 130
  if debug:
    traceback.print_exception(failure)
  say_error(message)
  return 2


def _set_up(debug: bool) -> None:
  logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax thinks aloud
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')  # names of files may be any bytes
  warnings.formatwarning = lambda message, *rest, **more: f'v2meow: {message}\n'
  if not debug:
    hush()
  runtime.begin()


def hush() -> None:
  """Keeps from the terminal what libraries say of themselves."""
  global _hushing
  _hushing = True
  before = sys.excepthook

  def hook(kind, error, trace) -> None:
    # Threads of TensorStore that hear of an answer nobody waits for any more.
    if str(error) != 'Event loop is closed':
      before(kind, error, trace)

  sys.excepthook = hook


@contextlib.contextmanager
def hushed() -> Iterator[None]:
  """Around the import of a library that writes to standard error: what it says is shown if it fails, only.

  `--debug`, and Python users, see it at once.
  """
  if not _hushing:
    yield
    return
  sys.stderr.flush()
  own = os.dup(2)
  with tempfile.TemporaryFile() as kept:
    os.dup2(kept.fileno(), 2)
    try:
      yield
    except BaseException:
      kept.seek(0)
      os.write(own, kept.read())
      raise
    finally:
      os.dup2(own, 2)
      os.close(own)


def first_part(error: BaseException) -> str:
  """An exception's message without the trail of callers that gin appends to it."""
  return str(error).split('\n  In call to configurable')[0].strip()


def number(text: str) -> float:
  """An option's value that is a finite number."""
  value = float(text)
  if not math.isfinite(value):
    raise argparse.ArgumentTypeError(f'{text} is not a finite number')
  return value


def local_path(text: str) -> pathlib.Path:
  """An option's value that is a path on this machine; of an object's address it would make a folder."""
  if '://' in text:
    raise argparse.ArgumentTypeError(f'{text} lies on an object store; name a path on this machine')
  return pathlib.Path(text)


def any_path(text: str) -> epath.Path:
  """An option's value that is a path on this machine or of an object store."""
  try:
    return stores.address(text)
  except errors.ConfigError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def say(text: str) -> None:
  """A line beside the results: on standard error, at once."""
  print(names.shown(text), file=sys.stderr, flush=True)


def say_error(message: str) -> None:
  """One sentence on what went wrong."""
  say(f'v2meow: {" ".join(message.split())}')


class Progress:
  """How far long work is: one updated line on a terminal, a line now and then elsewhere.

  Work may have several parts that take turns; the line is about the one that moved last. Where the output is
  no terminal, a part has a line when it is done, and one every `LINE_SECONDS` before that.

  Args:
    quiet: say nothing where the output is no terminal.
  """

  def __init__(self, quiet: bool = False):
    # rich takes a tenth of a second to import, which short commands need not pay.
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    self.live = console.is_terminal
    self._quiet, self._said = quiet, time.monotonic()
    self._finished: set[str] = set()
    self._bar = progress.Progress(
      progress.TextColumn('{task.description}'),
      progress.BarColumn(),
      progress.MofNCompleteColumn(),
      progress.TimeRemainingColumn(),
      progress.TextColumn('{task.fields[note]}'),
      console=console,
      disable=not self.live,
    )
    self._tasks: dict[str, Any] = {}

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *failure: object) -> None:
    self.close()

  def update(self, part: str, done: int, total: int, note: str | None = None) -> None:
    """`done` of `total` of a part are done; `note` stands behind it on a terminal."""
    if self.live:
      self._bar.start()
      for name, task in self._tasks.items():
        self._bar.update(task, visible=name == part)
      if part not in self._tasks:
        # What was there before this process is no measure of its speed.
        self._tasks[part] = self._bar.add_task(part, total=total, completed=done, note='')
      task = self._tasks[part]
      self._bar.update(task, completed=done, total=total, visible=True)
      if note is not None:
        self._bar.update(task, note=note)
      return
    ended = done >= total
    due = time.monotonic() - self._said >= LINE_SECONDS
    if self._quiet or not (due or (ended and part not in self._finished)):
      return
    if ended:
      self._finished.add(part)
    self._said = time.monotonic()
    say(f'{part}: {done} of {total}')

  def track(self, items: Iterable, total: int, part: str) -> Iterator:
    """Passes items on and counts them."""
    if total:
      self.update(part, 0, total)
    for number, item in enumerate(items, 1):
      self.update(part, number, total)
      yield item

  def say(self, text: str) -> None:
    """A line that stays, above the one that is updated."""
    if self.live:
      self._bar.console.print(names.shown(text), markup=False, highlight=False, soft_wrap=True)
    else:
      say(text)

  def close(self) -> None:
    """Leaves the terminal as it was."""
    if self.live:
      self._bar.stop()
