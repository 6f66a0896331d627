"""The videos of a folder, found by looking into its files."""

import os
import pathlib

from v2meow_jax import errors
from v2meow_jax.media import container

# Whoever names a file so means a video: one that cannot be read is a fault, and not passed over.
VIDEOS = (
  '.3gp', '.avi', '.flv', '.gif', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.mts', '.ogv',
  '.ts', '.webm', '.wmv',
)  # fmt: skip
# Not looked into: no film is called so, and a picture would pass for one.
_OTHERS = {'.bmp', '.csv', '.jpeg', '.jpg', '.json', '.jsonl', '.md', '.png', '.srt', '.txt', '.vtt', '.webp'}


def look(folder: str | os.PathLike) -> tuple[list[pathlib.Path], dict[pathlib.Path, str]]:
  """(videos, why the other files are none), sorted; subfolders are not looked into.

  Raises:
    errors.MediaError: there is no such folder.
  """
  if not os.path.isdir(folder):
    raise errors.MediaError(f'{os.fspath(folder)}: there is no such folder; check the path.')
  videos, passed = [], {}
  for path in sorted(pathlib.Path(folder).iterdir()):
    why = _fault(path)
    if why:
      passed[path] = why
    else:
      videos.append(path)
  return videos, passed


def _fault(path: pathlib.Path) -> str:
  """Why a file is no video; empty where it is one, or is meant to be."""
  if path.name.startswith('.'):
    return 'hidden'
  if path.is_dir():
    return 'a folder'
  if not path.is_file():
    return 'no file'
  suffix = path.suffix.lower()
  if suffix in _OTHERS:
    return 'no video'
  try:
    with container.open_media(path) as opened:
      if container.pick(opened, 'video') is None:
        return 'no pictures in it'
  except errors.MediaError:
    return '' if suffix in VIDEOS else 'not a video'
  return ''
