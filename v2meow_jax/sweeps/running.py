"""Runs work in an order that its inputs allow, some at a time, until nothing is left that can be done."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from v2meow_jax import errors, files, terminal
from v2meow_jax.sweeps import launchers, state
from v2meow_jax.sweeps.launchers import Job, Launcher
from v2meow_jax.sweeps.state import State
from v2meow_jax.sweeps.sweep import RESUMED, Train
from v2meow_jax.sweeps.trials import Work

# Exit statuses that ask for the same command again: stopped and saved, a process lost, a signal.
_AGAIN = (terminal.AGAIN, 76, 128 + 15, 128 + 2)
_BAD_INPUT = 2
_POLL_SECONDS = 0.2
_LINKED = 2**20  # bytes; files of this size and more are linked into what grows


@dataclasses.dataclass
class _Running:
  job: Job
  began: float
  log: int  # bytes of the log before it
  before: tuple[str, ...]  # what had been reached
  slot: int


class Runner:
  """See the module's docstring.

  Args:
    root: folder of the sweep.
    launcher: where work runs.
    jobs: pieces of work at once.
    retries: further attempts of what fails.
    changed: called now and then, and with every change.
    say: shows a line that stays.
    flags: further ones of `v2meow train`.
  """

  def __init__(
    self,
    root: pathlib.Path,
    launcher: Launcher,
    jobs: int = 1,
    retries: int = 2,
    changed: Callable[[Sequence[str]], None] = lambda running: None,
    say: Callable[[str], None] = terminal.say,
    flags: Sequence[str] = (),
  ):
    self.root, self._launcher, self._jobs, self._retries = root, launcher, jobs, retries
    self._changed, self._say, self._flags = changed, say, list(flags)
    self.states: dict[str, State] = {}  # by the work's signature

  def run(self, works: Iterable[Work], until: int | None = None) -> None:
    """Runs what is not done; what fails is told, and the rest goes on.

    Args:
      works: in an order in which inputs come first.
      until: training step to stop at; None: the whole of each run.
    """
    waiting: list[Work] = []
    for work in {work.signature: work for work in works}.values():
      self._look(work)
      if not self.states[work.signature].done(until):
        waiting.append(work)
    running: dict[Work, _Running] = {}
    try:
      while waiting or running:
        moved = self._finish(running, waiting, until)
        moved |= self._begin(running, waiting, until)
        self._changed([work.name for work in running])
        if not moved:
          time.sleep(_POLL_SECONDS)
    except BaseException:
      for one in running.values():
        one.job.stop()
      launchers.wait_all([one.job for one in running.values()])
      for work, one in running.items():
        if not one.job.identity:
          self._ended(work, one, one.job.poll(), until, stopping=True)
      raise

  def _look(self, work: Work) -> None:
    try:
      found = state.read(work.folder(self.root))
    except errors.ConfigError as error:
      self.states[work.signature] = State('failed', words=str(error), status=_BAD_INPUT)
      self._say(f'failed {work.name}: {error}')
      return
    # What had failed gets its attempts anew.
    self.states[work.signature] = msgspec.structs.replace(found, attempts=0)

  def _begin(self, running: dict[Work, _Running], waiting: list[Work], until: int | None) -> bool:
    moved = False
    for work in list(waiting):
      if self._is_damaged(work):
        waiting.remove(work)
        continue
      lacking = [other for other in work.inputs.values() if not self.states[other.signature].done()]
      lost = [other for other in lacking if other not in waiting and other not in running]
      if lost:
        waiting.remove(work)
        words = f'it needs {lost[0].name}, which failed'
        self.states[work.signature] = State('failed', words=words)
        self._say(f'left out {work.name}: {words}')
        moved = True
      elif not lacking and len(running) < self._jobs:
        slot = min(set(range(self._jobs)) - {one.slot for one in running.values()})
        started = self._start(work, slot, until)
        if started is not None:
          waiting.remove(work)
          running[work] = started
          moved = True
    return moved

  def _is_damaged(self, work: Work) -> bool:
    found = self.states[work.signature]
    return found.state == 'failed' and found.status == _BAD_INPUT and 'damaged; remove' in found.words

  def _start(self, work: Work, slot: int, until: int | None) -> _Running | None:
    folder, known = work.folder(self.root), self.states[work.signature]
    began, before = time.monotonic(), state.progress(folder)
    if known.job and (job := self._launcher.found(known.job, folder)) is not None:
      return _Running(job, began, 0, before, slot)
    folder.mkdir(parents=True, exist_ok=True)
    with launchers.locked(folder / '.lock') as lock:
      if lock is None:
        return None  # what an earlier process left behind has not ended yet
      arguments = self._ready(work, until)
    log = folder / state.LOG
    size = log.stat().st_size if log.exists() else 0
    job = self._launcher.start(arguments, folder, slot)
    if job is None:
      return None
    self._note(work, msgspec.structs.replace(known, state='running', words='', status=None, job=job.identity))
    return _Running(job, began, size, before, slot)

  def _ready(self, work: Work, until: int | None) -> list[str]:
    """Writes what the command needs; the command."""
    arguments = work.arguments(self.root)
    if isinstance(work.step, Train):
      files.write_text(work.folder(self.root) / 'trial.gin', work.configuration(self.root))
      arguments += self._flags
      return arguments if until is None else [*arguments, f'--gin.Settings.total_steps={until}']
    out = work.output(self.root)
    if work.step.command not in RESUMED:
      remove(out)
    if work.step.grows in work.inputs and not out.exists():
      grow(work.inputs[work.step.grows].output(self.root), out)
    return arguments

  def _finish(self, running: dict[Work, _Running], waiting: list[Work], until: int | None) -> bool:
    moved = False
    for work, one in list(running.items()):
      status = one.job.poll()
      if status is not None:
        del running[work]
        if self._ended(work, one, status, until):
          waiting.insert(0, work)
        moved = True
    return moved

  def _ended(
    self, work: Work, one: _Running, status: int | None, until: int | None, stopping: bool = False
  ) -> bool:
    """Records how an attempt ended; whether it is to be run again."""
    folder, known = work.folder(self.root), self.states[work.signature]
    known = msgspec.structs.replace(
      known, seconds=known.seconds + time.monotonic() - one.began, status=status, job=''
    )
    if status == 0:
      told = f' up to step {until}' if until else ''
      self._note(work, msgspec.structs.replace(known, state='done', attempts=0, words='', until=until))
      self._say(f'done {work.name}{told}, {known.seconds:.0f} s')
      return False
    if stopping:
      self._note(work, msgspec.structs.replace(known, state='stopped'))
      return False
    moved = status in _AGAIN and state.progress(folder) != one.before
    attempts = 0 if moved else known.attempts + 1
    words = state.last_words(folder, one.log)
    again = moved or (status != _BAD_INPUT and attempts <= self._retries)
    what = 'again' if again else 'failed'
    self._say(f'{what} {work.name}: exit status {status}: {words}')
    self._note(
      work,
      msgspec.structs.replace(
        known,
        state='stopped' if again else 'failed',
        attempts=attempts,
        words=words or f'exit status {status}',
      ),
    )
    return again

  def _note(self, work: Work, found: State) -> None:
    self.states[work.signature] = found
    state.write(work.folder(self.root), found)


def remove(path: pathlib.Path) -> None:
  """Removes a file or folder, if it is there."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    with contextlib.suppress(FileNotFoundError):
      path.unlink()


def grow(source: pathlib.Path, out: pathlib.Path) -> None:
  """Makes `out` a folder like `source` to which more can be added: large files are linked, small ones copied.

  What a dataset holds is written once and never changed in place, but for small tables.
  """

  def take(old: str, new: str) -> None:
    if os.path.getsize(old) >= _LINKED:
      with contextlib.suppress(OSError):  # another file system
        os.link(old, new)
        return
    shutil.copy2(old, new)

  beside = out.with_name(f'.{out.name}.tmp')
  remove(beside)
  shutil.copytree(source, beside, copy_function=take)
  beside.rename(out)
