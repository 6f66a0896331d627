"""JSON lines that people write: one reader, and one schema for each kind of row."""

import os
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
from etils import epath

from v2meow_jax import errors

Text = Annotated[str, msgspec.Meta(min_length=1)]


class ClipRow(msgspec.Struct, kw_only=True):
  """A film, or a piece of music, of which clips are prepared; of it the seconds from `start` to `end`."""

  id: Text
  video: Text | None = None
  audio: Text | None = None
  start: float = 0.0
  end: float | None = None
  source: Text | msgspec.UnsetType = msgspec.UNSET
  split: Literal['train', 'validation'] | None = None
  caption: str | None = None
  licence: str | None = None


class MusicRow(msgspec.Struct, kw_only=True):
  """Music of which a video is rendered; `id` names the video, `events` what is true of rendered music."""

  id: Text
  audio: Text
  events: Text | None = None


class PieceRow(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
  """Music that is asked for; see `generation.request.Request`."""

  name: Text | None = None
  video: Text | None = None
  prompt: str | None = None
  style: Text | None = None
  beginning: Text | None = None
  beginning_seconds: float | None = None
  seed: int | None = None
  duration: float | None = None


Row = TypeVar('Row', bound=msgspec.Struct)


class ExclusionRow(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
  """A line of a list of clips that are left out: one of its fields."""

  id: str = ''
  source: str = ''
  licence: str = ''


class Line(msgspec.Struct):
  """A line of a manifest.

  Attributes:
    number: from 1.
    given: what stands there, where it is an object.
    row: as the schema has it; None where it does not hold.
    reason: why not.
  """

  number: int
  given: dict[str, Any]
  row: Any
  reason: str


def read(path: str | os.PathLike, kind: type[Row]) -> list[Line]:
  """The lines of a manifest, blank ones left out.

  Raises:
    errors.DatasetError: the file is missing, is no text, or has no line.
  """
  place = epath.Path(path)
  if not place.is_file():
    raise errors.DatasetError(f'{path}: there is no such manifest; check the path')
  try:
    # Editors of Windows write a mark before the first line.
    text = place.read_bytes().decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise errors.DatasetError(
      f'{path}: not a text file in UTF-8 ({error.reason}); save it as such'
    ) from error
  # By newlines alone: splitlines would also break at separators that JSON strings may hold.
  lines = [_line(number, line, kind) for number, line in enumerate(text.split('\n'), 1) if line.strip()]
  if not lines:
    raise errors.DatasetError(f'{path}: the manifest has no rows')
  return lines


def _line(number: int, text: str, kind: type) -> Line:
  given: Any = {}
  try:
    given = msgspec.json.decode(text)
    return Line(number, given if isinstance(given, dict) else {}, check(given, kind), '')
  except (msgspec.DecodeError, RecursionError) as error:
    return Line(number, {'text': text[:1000]}, None, f'not JSON ({str(error)[:120]})')
  except errors.InputError as error:
    return Line(number, given if isinstance(given, dict) else {'text': text[:1000]}, None, str(error))


def check(given: Any, kind: type[Row]) -> Row:
  """Values as a row of a kind; nothing is converted.

  Raises:
    errors.DatasetError: a value is missing, of another type, unknown, or no text can hold it.
  """
  if not isinstance(given, dict):
    raise errors.DatasetError('it is not an object, {"name": value, ...}')
  for name, value in given.items():
    if isinstance(value, str):
      if '\0' in value:
        raise errors.DatasetError(f'"{name}" holds a NUL')
      if not value.isascii() and any('\ud800' <= c <= '\udfff' for c in value) and name not in _PATHS:
        raise errors.DatasetError(f'"{name}" holds characters that are none')
  try:
    return msgspec.convert(given, kind, strict=True)
  except msgspec.ValidationError as error:
    raise errors.DatasetError(_sentence(str(error), kind)) from error


_PATHS = {'video', 'audio', 'style', 'beginning'}  # of files whose names may be any bytes


def _sentence(message: str, kind: type) -> str:
  """What msgspec says, with the field first."""
  what, _, place = message.partition(' - at ')
  field = place.strip('`').removeprefix('$.')
  what = what.replace('`', '').replace(' | null', '')
  if what.startswith('Object missing required field '):
    return f'"{what.removeprefix("Object missing required field ")}" is missing'
  if what.startswith('Object contains unknown field '):
    return f'"{what.removeprefix("Object contains unknown field ")}" is not known here'
  if what.startswith('Invalid enum value'):
    choices = [str(choice) for part in get_args(get_type_hints(kind)[field]) for choice in get_args(part)]
    what = f'{what.removeprefix("Invalid enum value ")} is not one of {", ".join(choices)}'
  return f'"{field}": {what[0].lower()}{what[1:]}' if field else what


def resolved(folder: pathlib.Path, path: str) -> str:
  """A path of a manifest, which counts from the manifest's folder."""
  return str((folder / path).resolve())


def refused(lines: list[Line]) -> Iterator[dict[str, Any]]:
  """Rows that cannot be used, for a report: what was given, the line and the reason."""
  for line in lines:
    if line.row is None:
      yield line.given | {'line': line.number, 'reason': line.reason}
