"""Files that appear whole or not at all."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator

from etils import epath


@contextlib.contextmanager
def replaced_when_done(path: str | os.PathLike) -> Iterator[str]:
  """Gives a temporary name beside `path` which takes its place on success and is removed on failure."""
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


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file in one piece."""
  # Bytes of a file's name that are no UTF-8 become what JSON writes for them.
  with (
    replaced_when_done(path) as temporary,
    open(temporary, 'w', encoding='utf-8', errors='backslashreplace') as file,
  ):
    file.write(text)


def write_lines(path: str | os.PathLike, rows: Iterable[dict]) -> None:
  """Writes JSON lines in one piece."""
  write_text(path, ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))


def read_lines(path: str | os.PathLike) -> list[dict]:
  """Reads JSON lines; blank ones are passed over.

  Raises:
    ValueError: a line is not JSON, or the file is not UTF-8.
  """
  text = epath.Path(path).read_bytes().decode('utf-8')
  # By newlines alone: splitlines would also break at separators that JSON strings may hold.
  return [json.loads(line) for line in text.split('\n') if line.strip()]


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a binary file in one piece."""
  with replaced_when_done(path) as temporary, open(temporary, 'wb') as file:
    file.write(data)
