"""What is measured: pieces of music that something made, their truth and their video."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from v2meow_jax import errors
from v2meow_jax.generation.tasks import Task
from v2meow_jax.media import container

_OTHERS = {'.csv', '.html', '.jpeg', '.jpg', '.json', '.jsonl', '.md', '.png', '.tsv', '.txt'}


@dataclasses.dataclass(frozen=True)
class Piece:
  """A piece of music.

  Attributes:
    name: of the piece.
    made: file of what is measured.
    truth: file whose sound is the music it should be like; None where there is none of its own.
    video: file whose pictures it is for; None where there is none.
    prompt: text that it was made for; empty where there was none.
  """

  name: str
  made: pathlib.Path
  truth: pathlib.Path | None = None
  video: pathlib.Path | None = None
  prompt: str = ''


def find(folder: pathlib.Path, kind: str) -> dict[str, pathlib.Path]:
  """Files of a folder that have sound, or pictures, by their names without suffix, sorted.

  Args:
    folder: subfolders are looked into, hidden ones not; or one file.
    kind: `audio` or `video`.

  Raises:
    errors.MediaError: there is none, or two have one name.
  """
  if not folder.exists():
    raise errors.MediaError(f'{folder}: there is no such folder; check the path')
  paths = [folder] if folder.is_file() else sorted(folder.rglob('*'))
  found: dict[str, pathlib.Path] = {}
  for path in paths:
    hidden = any(part.startswith('.') for part in path.relative_to(folder).parts)
    if hidden or not path.is_file() or path.suffix.lower() in _OTHERS:
      continue
    try:
      with container.open_media(path) as opened:
        if container.pick(opened, kind) is None:
          continue
    except errors.MediaError:
      continue
    if path.stem in found and found[path.stem].suffix != path.suffix:
      # What generation writes: the film holds the same sound as the music beside it.
      if path.suffix == '.wav':
        found[path.stem] = path
      elif found[path.stem].suffix != '.wav':
        raise errors.MediaError(f'{folder}: two files are called {path.stem!r}; keep one of them')
      continue
    if path.stem in found:
      raise errors.MediaError(f'{folder}: two files are called {path.stem!r}; rename one of them')
    found[path.stem] = path
  if not found:
    raise errors.MediaError(f'{folder}: no file with {"sound" if kind == "audio" else "pictures"} is there')
  return found


def of_folder(
  made: pathlib.Path, reference: pathlib.Path | None, tell: Callable[[str], None]
) -> tuple[list[Piece], list[Piece]]:
  """(pieces, pieces of the reference that have no piece of their name) of folders that anything made.

  A piece's truth, and its video, is the file of the reference with its name. Where no name is in both, the
  reference is a set, and agreement in time is not measured.
  """
  ours = find(made, 'audio')
  theirs = find(reference, 'audio') if reference else {}
  pieces = []
  for name, path in ours.items():
    truth = theirs.get(name)
    pieces.append(Piece(name, path, truth, truth if truth is not None and _pictures(truth) else None))
  missing = [piece.name for piece in pieces if piece.truth is None]
  if reference and missing and len(missing) < len(pieces):
    tell(
      f'{reference}: nothing is called like {len(missing)} of {len(pieces)} pieces, {missing[0]!r} for one'
    )
  rest = [Piece(name, path, path) for name, path in theirs.items() if name not in ours]
  return pieces, rest


def _pictures(path: pathlib.Path) -> bool:
  with container.open_media(path) as opened:
    return container.pick(opened, 'video') is not None


def of_tasks(tasks: Sequence[Task], music: pathlib.Path) -> list[Piece]:
  """Pieces that were generated for videos, into a folder; the videos' own sound is the truth."""
  pieces = []
  for task in tasks:
    video = task.request.video
    path = None if video is None else pathlib.Path(video)
    truth = None
    if path is not None:
      with container.open_media(path) as opened:
        truth = path if container.pick(opened, 'audio') is not None else None
    pieces.append(Piece(task.name, music / f'{task.name}.wav', truth, path, task.request.prompt or ''))
  return pieces
