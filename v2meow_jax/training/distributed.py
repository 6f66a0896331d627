"""Several processes as one run: how they find each other, and how a run ends when one of them is lost."""

import os
import sys
import threading
import time

import jax

from v2meow_jax import errors

LOST = 76  # exit status: another process is gone or hangs; nothing was saved, the last checkpoint stands


def initialize(
  multiprocess: bool = False,
  coordinator_address: str | None = None,
  process_count: int | None = None,
  process_index: int | None = None,
  heartbeat_seconds: int = 60,
) -> None:
  """Joins the other processes of the run, before JAX is used; T5X's flags.

  Args:
    multiprocess: find the others by Slurm, GKE, Cloud TPU, Kubernetes or MPI.
    coordinator_address: `host:port` of process 0, instead of finding it.
    process_count: processes in all.
    process_index: number of this one.
    heartbeat_seconds: without a sign of life for so long, a process counts as lost.

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
    return
  try:
    jax.distributed.initialize(
      coordinator_address,
      process_count,
      process_index,
      heartbeat_timeout_seconds=heartbeat_seconds,
      # A process that ended well waits only so long for the others.
      shutdown_timeout_seconds=heartbeat_seconds,
    )
  except (ValueError, RuntimeError) as error:
    raise errors.ConfigError(
      f'the other processes were not found ({str(error).splitlines()[0]}); '
      'give --coordinator_address, --process_count and --process_index'
    ) from error


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
