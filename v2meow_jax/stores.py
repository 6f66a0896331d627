"""Files wherever they lie: on this machine, or on an object store (`gs://`, `s3://`).

An object store appends nothing, renames nothing, and answers a request in tens of milliseconds. So parts of a
file are read by exact ranges, without a buffer that would read more, and asked for again where it fails.
"""

import collections
import concurrent.futures
import importlib.util
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# Before the first path is looked at: with TensorFlow installed etils would take its file systems, which know
# no s3:// and do not read by range.
os.environ.setdefault('EPATH_USE_TF', 'false')

from etils import epath

from v2meow_jax import errors

# It wonders aloud, once a client, what kind of bucket each is.
logging.getLogger('gcsfs').setLevel(logging.ERROR)

# Scheme -> the module that reads it, and the extra that installs it.
SCHEMES = {'gs': ('gcsfs', 'gcs'), 's3': ('s3fs', 's3')}
TRIES = 6
FIRST_WAIT = 0.2  # seconds; doubled each time
OPEN_FILES = 128
AT_ONCE = 32  # reads under way


def is_remote(path: epath.PathLike) -> bool:
  """Whether a path is an object store's."""
  return '://' in os.fspath(path)


def address(text: str) -> epath.Path:
  """A path of this machine or of an object store.

  Raises:
    errors.ConfigError: nothing here reads such addresses.
  """
  if '://' in text:
    scheme = text.split('://')[0]
    if scheme not in SCHEMES:
      known = ' and '.join(f'{name}://' for name in SCHEMES)
      raise errors.ConfigError(f'{text}: only paths of this machine, {known} are understood')
    module, extra = SCHEMES[scheme]
    if importlib.util.find_spec(module) is None:
      raise errors.ConfigError(f'{text}: {scheme}:// needs {module}; install the extra "{extra}"')
  return epath.Path(text)


def filesystem(path: epath.PathLike) -> Any:
  """fsspec's file system of a remote path."""
  # Imported late: local work, which is nearly all, need not pay for it.
  import fsspec

  scheme = os.fspath(path).split('://')[0]
  # What another process has written since counts, so listings are not remembered.
  return fsspec.filesystem(scheme, use_listings_cache=False)


def retried(work: Callable[[], Any], what: str) -> Any:
  """The result of work on a store; it is tried again, ever later, where the store fails.

  Args:
    work: may be done several times.
    what: named where it fails for good.

  Raises:
    FileNotFoundError, PermissionError: which no trying mends.
    errors.InputError: the store does not answer.
  """
  for attempt in range(TRIES):
    try:
      return work()
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError):
      raise
    # Clients raise of many kinds: their own, the network library's, and timeouts.
    except Exception as error:
      if attempt == TRIES - 1:
        raise errors.InputError(
          f'{what}: the object store does not answer ({type(error).__name__}: {str(error)[:200]})'
        ) from error
      # With chance in it, so that a thousand hosts do not come back at once.
      time.sleep(FIRST_WAIT * 2**attempt * (0.5 + random.random()))


def sizes(folder: epath.PathLike) -> dict[str, int]:
  """Name -> bytes of the files of a folder, by one listing; empty where there is none."""
  if is_remote(folder):
    return {name: size for name, (size, _) in listed(folder).items()}
  try:
    with os.scandir(folder) as entries:
      return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
  except (FileNotFoundError, NotADirectoryError):
    return {}


def listed(folder: epath.PathLike) -> dict[str, tuple[int, str]]:
  """Name -> (bytes, tag of its version) of the files of a remote folder; empty where there is none."""
  try:
    found = retried(lambda: filesystem(folder).ls(os.fspath(folder), detail=True), str(folder))
  except FileNotFoundError:
    return {}
  return {
    entry['name'].rsplit('/', 1)[-1]: (entry['size'], str(entry.get('ETag') or entry.get('etag') or ''))
    for entry in found
    if entry['type'] == 'file'
  }


class OpenFiles:
  """Parts of many files, of which few are open at once; safe to share between threads.

  Args:
    limit: files open at once.
  """

  def __init__(self, limit: int = OPEN_FILES):
    self._limit, self._lock = limit, threading.Lock()
    self._files: collections.OrderedDict[str, Any] = collections.OrderedDict()

  def __len__(self) -> int:
    """Files open now."""
    return len(self._files)

  def read(self, path: epath.PathLike, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file; fewer where it ends before."""
    name = os.fspath(path)
    if stop <= start:
      return b''
    if is_remote(name):
      return retried(lambda: filesystem(name).cat_file(name, start=start, end=stop), name)
    return _pread(self._open(name), start, stop)

  def _open(self, name: str) -> Any:
    with self._lock:
      file = self._files.get(name)
      if file is None:
        file = self._files[name] = open(name, 'rb', buffering=0)  # noqa: SIM115 (closed when the last one lets go)
        if len(self._files) > self._limit:
          # Whoever is reading it holds it open until done.
          self._files.popitem(last=False)
      else:
        self._files.move_to_end(name)
      return file


def in_order(work: Callable[[Any], Any], items: Iterable[Any], at_once: int) -> Iterator[Any]:
  """What `work` makes of each item, in their order; several are under way at once, ahead of what is taken."""
  if at_once <= 1:
    yield from map(work, items)
    return
  with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
    pending: collections.deque = collections.deque()
    try:
      for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) >= 2 * at_once:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:
      for future in pending:
        future.cancel()


def _pread(file: Any, start: int, stop: int) -> bytes:
  data = os.pread(file.fileno(), stop - start, start)
  # A read may end early, at two gigabytes for instance.
  while len(data) < stop - start and (
    more := os.pread(file.fileno(), stop - start - len(data), start + len(data))
  ):
    data += more
  return data


def read_range(path: epath.PathLike, start: int, stop: int) -> bytes:
  """Bytes `start` to `stop` of one file that is not kept open."""
  return OpenFiles(1).read(path, start, stop)
