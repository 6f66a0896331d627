"""Where work runs: here, as processes that end with this one, or on a Slurm cluster through submitit."""

import contextlib
import fcntl
import glob
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from v2meow_jax import errors
from v2meow_jax.sweeps import state

STOP_SECONDS = 120.0  # for a run to save itself


class Job(Protocol):
  """A command under way."""

  @property
  def identity(self) -> str:
    """By which it is found again by another process; empty where it ends with this one."""
    ...

  def poll(self) -> int | None:
    """Its exit status, or None while it runs."""
    ...

  def stop(self) -> None:
    """Asks it to save and end."""
    ...


class Launcher(Protocol):
  """Starts commands of `v2meow`."""

  def start(self, arguments: Sequence[str], folder: pathlib.Path, slot: int) -> Job | None:
    """Starts one whose output goes to a log in `folder`; None while another process is at work there."""
    ...

  def found(self, identity: str, folder: pathlib.Path) -> Job | None:
    """A job that another process had started; None where that has ended with it."""
    ...


@contextlib.contextmanager
def locked(path: pathlib.Path):
  """Holds a lock file while it lasts; yields its descriptor, or None where another process holds it."""
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield None
    else:
      yield descriptor
  finally:
    os.close(descriptor)


class Process:
  """A command that runs here."""

  identity = ''

  def __init__(self, process: subprocess.Popen):
    self._process = process

  def poll(self) -> int | None:
    """See `Job`."""
    status = self._process.poll()
    return status if status is None or status >= 0 else 128 - status  # as the shell has it

  def stop(self) -> None:
    """See `Job`."""
    self._process.terminate()

  def kill(self) -> None:
    """Ends it at once."""
    self._process.kill()


class Here:
  """Runs commands on this machine.

  Args:
    jobs: at once; with several GPUs each has one of its own.
  """

  def __init__(self, jobs: int):
    self._jobs = jobs
    self._gpus = len(glob.glob('/dev/nvidia[0-9]*'))

  def start(self, arguments: Sequence[str], folder: pathlib.Path, slot: int) -> Process | None:
    """See `Launcher`."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if self._jobs > 1 and self._gpus > 1:
      environment.setdefault('CUDA_VISIBLE_DEVICES', str(slot % self._gpus))
    # The child inherits the lock: whoever takes this sweep up waits until what was left behind has ended.
    with locked(folder / '.lock') as lock, (folder / state.LOG).open('ab') as log:
      if lock is None:
        return None
      process = subprocess.Popen(
        [sys.executable, '-m', 'v2meow_jax.sweeps.child', str(os.getpid()), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        pass_fds=(lock,),
        start_new_session=True,  # Ctrl-C reaches us alone, and we decide
      )
    return Process(process)

  def found(self, identity: str, folder: pathlib.Path) -> None:
    """See `Launcher`."""
    return None


class Command:
  """A command as submitit calls it on a cluster's machine.

  Before Slurm takes the machine away it is told so by a signal, upon which submitit asks for `checkpoint`:
  the command is ended, saves itself, and is put into the queue again.
  """

  def __init__(self, arguments: Sequence[str], log: pathlib.Path):
    self._arguments, self._log = list(arguments), log
    self._process: subprocess.Popen | None = None

  def __call__(self) -> int:
    with self._log.open('ab') as log:
      self._process = subprocess.Popen(
        [sys.executable, '-m', 'v2meow_jax', *self._arguments], stdout=log, stderr=log
      )
      return self._process.wait()

  def __getstate__(self) -> dict[str, Any]:
    return self.__dict__ | {'_process': None}

  def checkpoint(self):
    """What is to be done when the machine is given back."""
    import submitit  # of the extra `sweep`, on the cluster alone

    if self._process is not None:
      self._process.terminate()
      with contextlib.suppress(subprocess.TimeoutExpired):
        self._process.wait(STOP_SECONDS)
    return submitit.helpers.DelayedSubmission(self)


class Submitted:
  """A job of submitit's."""

  def __init__(self, job: Any, folder: pathlib.Path):
    self._job, self._folder = job, folder
    self.identity = str(job.job_id)

  def poll(self) -> int | None:
    """See `Job`."""
    if not self._job.done():
      return None
    try:
      return max(self._job.results())
    except Exception as error:  # submitit's own, and whatever the function raised there
      with (self._folder / state.LOG).open('a') as log:
        log.write(f'v2meow: the cluster ended it: {(str(error).strip().splitlines() or [""])[-1]}\n')
      return 1

  def stop(self) -> None:
    """It stays in the queue, and is found again by whoever continues the sweep."""


class Slurm:
  """Runs commands as jobs of a cluster.

  Args:
    parameters: of submitit's `update_parameters`, such as `timeout_min`, `slurm_partition`, `gpus_per_node`.
    cluster: `slurm`; `local` runs submitit's own processes here, for trying it out.

  Raises:
    errors.ConfigError: submitit or Slurm is not there, or a parameter is none of theirs.
  """

  def __init__(self, parameters: Mapping[str, Any], cluster: str = 'slurm'):
    try:
      import submitit  # of the extra `sweep`
    except ImportError as error:
      raise errors.ConfigError('--slurm needs submitit; install v2meow-jax with the extra "sweep"') from error
    self._submitit, self._parameters, self._cluster = submitit, dict(parameters), cluster
    self._executor(pathlib.Path(os.environ.get('TMPDIR', '/tmp')))

  def _executor(self, folder: pathlib.Path) -> Any:
    try:
      made = self._submitit.AutoExecutor(folder=folder, cluster=self._cluster)
      made.update_parameters(**self._parameters)
    except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
      first = (str(error).strip().splitlines() or [type(error).__name__])[0]
      raise errors.ConfigError(f'--slurm: {first}; without it, trials run here') from error
    return made

  def start(self, arguments: Sequence[str], folder: pathlib.Path, slot: int) -> Submitted:
    """See `Launcher`."""
    folder.mkdir(parents=True, exist_ok=True)
    executor = self._executor(folder / 'slurm')
    return Submitted(executor.submit(Command(arguments, folder.resolve() / state.LOG)), folder)

  def found(self, identity: str, folder: pathlib.Path) -> Submitted:
    """See `Launcher`."""
    kind = self._submitit.SlurmJob if self._cluster == 'slurm' else self._submitit.LocalJob
    return Submitted(kind(folder / 'slurm', identity), folder)


def wait_all(jobs: Sequence[Job], seconds: float = STOP_SECONDS) -> None:
  """Waits until jobs that were asked to stop have ended; after that time the rest is killed."""
  deadline = time.monotonic() + seconds
  own = [job for job in jobs if isinstance(job, Process)]
  while any(job.poll() is None for job in own):
    if time.monotonic() > deadline:
      for job in own:
        job.kill()
    time.sleep(0.1)
