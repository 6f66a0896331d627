"""Worker processes that end with their parent, whatever ends it."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def pool(count: int, begin: Callable[[], None] | None = None) -> Iterator[concurrent.futures.Executor]:
  """Processes that run functions; an exception ends the jobs under way, which remove what is half-written.

  Args:
    count: of the processes.
    begin: called in each of them first.
  """
  # Spawned: JAX and TensorFlow run threads that do not survive a fork.
  context = multiprocessing.get_context('spawn')
  made = concurrent.futures.ProcessPoolExecutor(count, context, initializer=_begin, initargs=(begin,))
  before = set(multiprocessing.active_children())
  try:
    yield made
  except BaseException:
    for child in set(multiprocessing.active_children()) - before:
      child.terminate()
    raise
  finally:
    made.shutdown(cancel_futures=True)


def cores() -> int:
  """Processor cores that this process may run on."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def is_worker() -> bool:
  """Whether this process is one of several that work side by side."""
  return multiprocessing.parent_process() is not None or _beside


def be_worker() -> None:
  """Tells this process, which another library began, that it works beside others."""
  global _beside
  _beside = True


_beside = False


def end_with_parent() -> None:
  """Lets this process, a child of `multiprocessing`, end when its parent does or says so."""
  # Raised where the job is, so that it removes what is half-written; Ctrl-C reaches the parent, who decides.
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_watch, daemon=True).start()


def _begin(begin: Callable[[], None] | None) -> None:
  end_with_parent()
  if begin is not None:
    begin()


def _watch() -> None:
  """Ends this process soon after its parent is gone, killed for instance."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    # A job in the middle of a long call of a library does not hear it.
    threading.Event().wait(5)
    os._exit(143)
