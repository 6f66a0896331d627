"""Pieces of music that are asked for together: videos, folders of them, and manifests."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from v2meow_jax import errors, manifests, names
from v2meow_jax.generation import results
from v2meow_jax.generation.request import Request
from v2meow_jax.media import folder


@dataclasses.dataclass(frozen=True)
class Task:
  """A request, and the name of its results."""

  name: str
  request: Request


def read_tasks(
  paths: Sequence[pathlib.Path], shared: Mapping[str, Any], tell: Callable[[str], None] = lambda text: None
) -> list[Task]:
  """What is asked for, in order; every task with a name of its own.

  Args:
    paths: videos, folders of videos, and manifests.
    shared: fields of every `Request` for which a manifest's line says nothing else.
    tell: is told which files of a folder are passed over, and why.

  Raises:
    errors.ConfigError: nothing to be done, or two results of one name.
    errors.DatasetError: a manifest that cannot be read.
    errors.MediaError: a folder without videos.
  """
  if not paths:
    if all(shared.get(name) is None for name in ('prompt', 'style', 'beginning')):
      raise errors.ConfigError(
        'name a video, or say with --prompt and --duration what the music should be like'
      )
    return [Task('music', Request(None, **shared))]
  tasks: list[Task] = []
  for path in paths:
    if path.is_dir():
      tasks += _folder(path, shared, tell)
    elif path.suffix == '.jsonl':
      tasks += _manifest(path, shared)
    else:
      tasks.append(Task(names.safe(path.stem), Request(path, **shared)))
  given = [task.name for task in tasks]
  twice = sorted({name for name in given if given.count(name) > 1})
  if twice:
    raise errors.ConfigError(f'two results would be called {twice[0]!r}; name them by "name" in a manifest')
  return tasks


def _folder(path: pathlib.Path, shared: Mapping[str, Any], tell: Callable[[str], None]) -> list[Task]:
  """Tasks of the videos of a folder but for films that were made here; of two with one stem both are told."""
  found, passed = folder.look(path)
  made = [video for video in found if results.is_result(video)]
  passed |= dict.fromkeys(made, 'made by an earlier run')
  videos = [video for video in found if video not in made]
  for place, why in passed.items():
    tell(f'{names.shown(place)}: passed over ({why})')
  if not videos:
    raise errors.MediaError(f'{path}: there is no video in this folder')
  stems = [names.safe(video.stem).casefold() for video in videos]
  return [
    Task(names.safe(video.name if stems.count(stem) > 1 else video.stem), Request(video, **shared))
    for video, stem in zip(videos, stems, strict=True)
  ]


def _manifest(path: pathlib.Path, shared: Mapping[str, Any]) -> list[Task]:
  """Tasks of JSON lines; paths are relative to the manifest, and a line's values go before the options'."""
  tasks = []
  for line in manifests.read(path, manifests.PieceRow):
    try:
      if line.row is None:
        raise errors.DatasetError(line.reason)
      settings = dict(shared) | {key: value for key, value in line.given.items() if key != 'name'}
      for key in ('video', 'style', 'beginning'):
        if line.given.get(key):
          settings[key] = path.parent / line.given[key]
      video = line.row.video
      name = line.row.name or (names.safe(pathlib.Path(video).stem) if video else f'music_{line.number}')
      tasks.append(Task(names.check(name), Request(**settings)))
    except errors.InputError as error:
      raise errors.DatasetError(f'{path}, line {line.number}: {error}') from error
  return tasks


def readable(tasks: Sequence[Task]) -> tuple[list[Task], dict[str, str]]:
  """(tasks whose files can be opened, why not by the others' names).

  Raises:
    errors.InputError: of a single task.
  """
  good, failures = [], {}
  for task in tasks:
    try:
      _ = task.request.seconds
      good.append(task)
    except errors.InputError as error:
      if len(tasks) == 1:
        raise
      failures[task.name] = str(error)
  return good, failures


def check_places(out: pathlib.Path, tasks: list[Task]) -> None:
  """Raises `errors.ConfigError` where a result would take the place of something that is read."""
  given = {}
  for task in tasks:
    for path in (task.request.video, task.request.style, task.request.beginning):
      if path is not None and os.path.exists(path):
        status = os.stat(path)
        given[status.st_dev, status.st_ino] = path
  for task in tasks:
    for suffix in results.SUFFIXES:
      path = out / f'{task.name}.{suffix}'
      if path.exists() and (path.stat().st_dev, path.stat().st_ino) in given:
        raise errors.ConfigError(f'--out: {path} is one of the files that are read; name another folder')
