"""Files that appear whole or not at all, on this machine and on object stores."""

import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator

import numpy as np
from etils import epath

from v2meow_jax import stores


@contextlib.contextmanager
def replaced_when_done(path: epath.PathLike) -> Iterator[str]:
  """Gives a temporary name which takes the place of `path` on success and is removed on failure.

  The name is one beside `path`; of an object store's, one of this machine, whose file is uploaded.
  """
  if stores.is_remote(path):
    with tempfile.TemporaryDirectory() as folder:
      temporary = os.path.join(folder, 'object')
      yield temporary
      name = os.fspath(path)
      # An object is there once all of it is.
      stores.retried(lambda: stores.filesystem(name).put_file(temporary, name), name)
    return
  folder = os.path.dirname(os.path.abspath(os.fspath(path)))
  # No part of the name is in it, so that it is never longer.
  temporary = os.path.join(folder, f'.{uuid.uuid4().hex[:12]}.tmp')
  try:
    yield temporary
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      os.unlink(temporary)
    raise


def write_text(path: epath.PathLike, text: str) -> None:
  """Writes a text file in one piece."""
  # Bytes of a file's name that are no UTF-8 become what JSON writes for them.
  with (
    replaced_when_done(path) as temporary,
    open(temporary, 'w', encoding='utf-8', errors='backslashreplace') as file,
  ):
    file.write(text)


def write_lines(path: epath.PathLike, rows: Iterable[dict]) -> None:
  """Writes JSON lines in one piece."""
  with (
    replaced_when_done(path) as temporary,
    open(temporary, 'w', encoding='utf-8', errors='backslashreplace') as file,
  ):
    for row in rows:
      file.write(json.dumps(row, ensure_ascii=False) + '\n')


def read_lines(path: epath.PathLike) -> list[dict]:
  """Reads JSON lines; blank ones are passed over.

  Raises:
    ValueError: a line is not JSON, or the file is not UTF-8.
  """
  text = epath.Path(path).read_bytes().decode('utf-8')
  # By newlines alone: splitlines would also break at separators that JSON strings may hold.
  return [json.loads(line) for line in text.split('\n') if line.strip()]


def write_bytes(path: epath.PathLike, data: bytes) -> None:
  """Writes a binary file in one piece."""
  with replaced_when_done(path) as temporary, open(temporary, 'wb') as file:
    file.write(data)


def write_array(path: epath.PathLike, array: np.ndarray) -> None:
  """Writes an array as NumPy's own file, in one piece."""
  with replaced_when_done(path) as temporary, open(temporary, 'wb') as file:
    np.save(file, array)


def read_array(path: epath.PathLike) -> np.ndarray:
  """An array of NumPy's file: mapped where it lies on this machine."""
  if stores.is_remote(path):
    return np.load(io.BytesIO(epath.Path(path).read_bytes()))
  return np.load(path, mmap_mode='r')


@contextlib.contextmanager
def folder_when_done(directory: epath.PathLike, last: str) -> Iterator[pathlib.Path]:
  """Gives a temporary folder which becomes `directory` on success and is removed on failure.

  Args:
    directory: is not there; on an object store the files are uploaded.
    last: name of the file without which the others do not count, and which is uploaded last.
  """
  if stores.is_remote(directory):
    with tempfile.TemporaryDirectory() as temporary:
      yield pathlib.Path(temporary)
      names = sorted(os.listdir(temporary), key=lambda name: name == last)
      for name in names:
        with replaced_when_done(epath.Path(directory) / name) as copy:
          shutil.move(os.path.join(temporary, name), copy)
    return
  place = pathlib.Path(directory)
  place.parent.mkdir(parents=True, exist_ok=True)
  folder = place.with_name(f'.{place.name}.{os.getpid()}')
  folder.mkdir()
  try:
    yield folder
    os.replace(folder, place)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def fetched(directory: epath.PathLike) -> pathlib.Path:
  """A folder of files on this machine: of an object store's, a copy in the user's cache, made once.

  Raises:
    FileNotFoundError: the store has no such folder.
  """
  if not stores.is_remote(directory):
    return pathlib.Path(directory)
  listed = stores.listed(directory)
  if not listed:
    raise FileNotFoundError(2, 'there is no such folder', os.fspath(directory))
  # Whatever tells one version of a file from another is in the copy's name.
  told = [[os.fspath(directory)], *sorted([name, *map(str, about)] for name, about in listed.items())]
  copy = cache() / 'fetched' / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
  if not copy.exists():
    with contextlib.suppress(FileExistsError), folder_when_done(copy, '') as folder:
      for name in listed:
        address = f'{os.fspath(directory).rstrip("/")}/{name}'
        stores.retried(
          functools.partial(stores.filesystem(directory).get_file, address, str(folder / name)), address
        )
  return copy


def cache() -> pathlib.Path:
  """This package's folder in the user's cache."""
  return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'v2meow_jax'
