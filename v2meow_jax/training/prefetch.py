"""Reading ahead in a thread, so that the accelerator does not wait for data."""

import itertools
import queue
import threading
from collections.abc import Generator, Iterator

from v2meow_jax.training.protocols import Batch


def prefetch(iterator: Iterator[Batch], ahead: int = 2) -> Generator[Batch]:
  """Reads `ahead` items in a thread; an error surfaces where the item is taken."""
  items: queue.Queue = queue.Queue(ahead)
  end = object()
  stopped = threading.Event()

  def put(item) -> bool:
    while not stopped.is_set():
      try:
        items.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def fill():
    try:
      for item in itertools.chain(iterator, [end]):
        if not put(item):
          return
    except BaseException as error:  # handed to the consumer
      put(error)

  threading.Thread(target=fill, daemon=True).start()
  try:
    while (item := items.get()) is not end:
      if isinstance(item, BaseException):
        raise item
      yield item
  finally:
    stopped.set()
