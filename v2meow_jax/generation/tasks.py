"""Pieces of music that are asked for together: videos, folders of them, and manifests."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from v2meow_jax import errors, files
from v2meow_jax.generation.request import Request
from v2meow_jax.generation.results import SUFFIXES
from v2meow_jax.media import probe


@dataclasses.dataclass(frozen=True)
class Task:
  """A request, and the name of its results."""

  name: str
  request: Request


def read_tasks(paths: Sequence[pathlib.Path], shared: Mapping[str, Any]) -> list[Task]:
  """What is asked for, in order; every task with a name of its own.

  Args:
    paths: videos, folders of videos, and manifests.
    shared: fields of every `Request` for which a manifest's line says nothing else.

  Raises:
    errors.ConfigError: nothing to be done, or two results of one name.
    errors.DatasetError: a manifest that cannot be read.
  """
  tasks = []
  for path in paths:
    if path.is_dir():
      tasks += [Task(video.stem, Request(video, **shared)) for video in probe.videos_in(path)]
    elif path.suffix == '.jsonl':
      tasks += _manifest(path, shared)
    else:
      tasks.append(Task(path.stem, Request(path, **shared)))
  if not paths:
    if all(shared.get(name) is None for name in ('prompt', 'style', 'beginning')):
      raise errors.ConfigError(
        'name a video, or say with --prompt and --duration what the music should be like'
      )
    tasks = [Task('music', Request(None, **shared))]
  names = [task.name for task in tasks]
  twice = sorted({name for name in names if names.count(name) > 1})
  if twice:
    raise errors.ConfigError(f'two results would be called {twice[0]!r}; name them by "name" in a manifest')
  return tasks


def _manifest(path: pathlib.Path, shared: Mapping[str, Any]) -> list[Task]:
  """Tasks of JSON lines; paths are relative to the manifest, and a line's values go before the options'."""
  try:
    rows = files.read_lines(path)
  except (ValueError, FileNotFoundError) as error:
    raise errors.DatasetError(f'{path}: missing or not JSON lines ({error})') from error
  fields = {field.name for field in dataclasses.fields(Request)}
  tasks = []
  for number, row in enumerate(rows, 1):
    unknown = set(row) - fields - {'name'} if isinstance(row, dict) else {'?'}
    if unknown:
      raise errors.DatasetError(f'{path}, line {number}: {", ".join(sorted(unknown))} is not known here')
    settings = dict(shared) | {key: value for key, value in row.items() if key != 'name'}
    for key in ('video', 'style', 'beginning'):
      if row.get(key):
        settings[key] = path.parent / row[key]
    try:
      wanted = Request(**settings)
    except (TypeError, errors.InputError) as error:
      raise errors.DatasetError(f'{path}, line {number}: {error}') from error
    name = str(
      row.get('name') or (pathlib.Path(row['video']).stem if row.get('video') else f'music_{number}')
    )
    if pathlib.PurePath(name).name != name:
      raise errors.DatasetError(f'{path}, line {number}: {name!r} is no name for a file')
    tasks.append(Task(name, wanted))
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
    for suffix in SUFFIXES:
      path = out / f'{task.name}.{suffix}'
      if path.exists() and (path.stat().st_dev, path.stat().st_ino) in given:
        raise errors.ConfigError(f'--out: {path} is one of the files that are read; name another folder')
