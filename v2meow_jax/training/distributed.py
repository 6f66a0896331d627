"""Several processes as one run: how they find each other, and how a run ends when one of them is lost."""

import contextlib
import os
import sys
import threading
import time

import jax
from orbax.checkpoint import multihost

from v2meow_jax import errors, terminal
from v2meow_jax.training import agreement

DONE = 'done'
LOST = 76  # exit status: another process is gone or hangs; nothing was saved, the last checkpoint stands


def initialize(
  multiprocess: bool = False,
  coordinator_address: str | None = None,
  process_count: int | None = None,
  process_index: int | None = None,
  heartbeat_seconds: int = 60,
) -> 'Liveness | None':
  """Joins the other processes of the run, before JAX is used; T5X's flags.

  Args:
    multiprocess: find the others by Slurm, GKE, Cloud TPU, Kubernetes or MPI.
    coordinator_address: `host:port` of process 0, instead of finding it.
    process_count: processes in all.
    process_index: number of this one.
    heartbeat_seconds: without a sign of life for so long, a process counts as lost.

  Returns:
    What watches over the other processes, and ends this one; None where there is but one.

  Raises:
    errors.ConfigError: some but not all of the explicit flags are given, or the others are not found.
  """
  explicit = (coordinator_address, process_count, process_index)
  if any(value is not None for value in explicit):
    if any(value is None for value in explicit):
      raise errors.ConfigError(
        '--coordinator_address, --process_count and --process_index are given together or not at all'
      )
    if not 0 <= process_index < process_count:  # type: ignore[operator] (checked above)
      raise errors.ConfigError(f'--process_index {process_index} is not below {process_count} processes')
  elif not multiprocess:
    return None
  # Its listener would take SIGTERM for itself, at a moment of its own, and nobody here would be told.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      coordinator_address,
      process_count,
      process_index,
      # JAX would abort every process with a stack trace: `Liveness` comes before it, with a sentence.
      heartbeat_timeout_seconds=4 * heartbeat_seconds,
    )
  except (ValueError, RuntimeError) as error:
    raise errors.ConfigError(
      f'the other processes were not found ({str(error).splitlines()[0]}); '
      'give --coordinator_address, --process_count and --process_index'
    ) from error
  return Liveness(heartbeat_seconds) if jax.process_count() > 1 else None


class Liveness:
  """Every process's sign of life, by JAX's coordination service, and an end to the run where one is missing.

  Args:
    seconds: without a sign for so long, a process counts as lost.
  """

  def __init__(self, seconds: float):
    self._seconds, self._done = seconds, threading.Event()
    self._client = multihost.get_jax_distributed_client()
    threading.Thread(target=self._watch, daemon=True).start()

  def _say(self, word: str) -> None:
    self._client.key_value_set(f'v2meow/alive/{jax.process_index()}', word, allow_overwrite=True)

  def _watch(self) -> None:
    seen: dict[str, tuple[str, float]] = {}
    beat = 0
    while not self._done.wait(self._seconds / 4):
      beat += 1
      try:
        self._say(str(beat))
        found = dict(self._client.key_value_dir_get('v2meow/alive/'))
        agreement.check_others()
      except errors.InputError as error:
        # This process may be within a collective that the other one never joins.
        if not self._done.wait(self._seconds / 4):
          terminal.say_error(str(error))
          self.finish(2)
      except jax.errors.JaxRuntimeError:
        self._lost('process 0, the coordinator,')
        return
      now = time.monotonic()
      for name, value in found.items():
        if seen.get(name, ('', 0.0))[0] != value:
          seen[name] = (value, now)
        elif value != DONE and now - seen[name][1] > self._seconds:
          self._lost(f'process {name.rsplit("/", 1)[-1]}')

  def _lost(self, who: str) -> None:
    if not self._done.is_set():
      leave(
        f'{who} has shown no sign of life for {self._seconds:g} s; '
        'run the same command to go on from the last checkpoint'
      )

  def finish(self, status: int) -> None:
    """Ends the process with this exit status once its work is done; process 0, the coordinator, as the last.

    JAX's own shutdown aborts a process that comes after the coordinator has gone.
    """
    self._done.set()
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._say(DONE)
      deadline = time.monotonic() + self._seconds
      while jax.process_index() == 0 and time.monotonic() < deadline:
        said = dict(self._client.key_value_dir_get('v2meow/alive/'))
        if list(said.values()).count(DONE) == jax.process_count():
          break
        time.sleep(0.05)
    os._exit(status)


def is_lost_process(error: BaseException) -> bool:
  """Whether an error of JAX's runtime, in a run of several processes, means that another one is gone."""
  return jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError)


def leave(message: str) -> None:
  """Ends this process at once: shutting down in order would wait for the process that is lost."""
  print(f'v2meow: {message}', file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(LOST)


class Watchdog:
  """Ends the process when the run has shown no progress for `seconds`; 0: never.

  A process that hangs leaves the others waiting inside a collective, from which no exception comes.
  """

  def __init__(self, seconds: float, what: str):
    self._seconds, self._what = seconds, what
    self._seen = time.monotonic()
    self._done = threading.Event()
    if seconds:
      threading.Thread(target=self._watch, daemon=True).start()

  def seen(self) -> None:
    """There is progress."""
    self._seen = time.monotonic()

  def _watch(self) -> None:
    while not self._done.wait(min(1.0, self._seconds / 4)):
      if time.monotonic() - self._seen > self._seconds:
        leave(
          f'{self._what}: no progress for {self._seconds:g} s; another process or the storage hangs; '
          'run the same command to go on from the last checkpoint'
        )

  def close(self) -> None:
    """Stops watching."""
    self._done.set()
