"""The files of a piece that was generated: film, music, picture, and what was asked for."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from v2meow_jax import __version__, description, files
from v2meow_jax.generation.pipeline import Generated, Pipeline
from v2meow_jax.generation.request import Request, fingerprint
from v2meow_jax.media import audio, loudness, mux
from v2meow_jax.painter import Painter
from v2meow_jax.sampling import Sampling

SUFFIXES = ('mp4', 'wav', 'png', 'json')


def describe(
  wanted: Request, digest: str, sampling: Mapping[str, Sampling], dtype: str, target: float
) -> dict[str, Any]:
  """What the results' JSON says: enough to make them again.

  Args:
    wanted: what was asked for.
    digest: the bundle's.
    sampling: by stage.
    dtype: of the stages.
    target: loudness of the music, in LUFS.
  """
  asked = {key: value if value is None or isinstance(value, int | float) else str(value)
           for key, value in dataclasses.asdict(wanted).items()}  # fmt: skip
  return {
    'v2meow_jax': __version__,
    'bundle': digest,
    'request': asked,
    'fingerprint': None if wanted.video is None else fingerprint(wanted.video),
    'sampling': description.describe(dict(sampling)),
    'dtype': dtype,
    'loudness': target,
  }


def complete(folder: pathlib.Path, name: str, about: dict[str, Any]) -> bool:
  """Whether the results of just this are there; the JSON is written last."""
  wanted = [suffix for suffix in SUFFIXES if suffix != 'mp4' or about['request']['video'] is not None]
  if not all((folder / f'{name}.{suffix}').is_file() for suffix in wanted):
    return False
  try:
    return json.loads((folder / f'{name}.json').read_bytes()) == json.loads(json.dumps(about))
  except (OSError, ValueError):  # not JSON, or not even text
    return False


def is_result(path: pathlib.Path) -> bool:
  """Whether a film is what `write` wrote: beside it lies a JSON that says so."""
  about = path.with_suffix('.json')
  if path.suffix != '.mp4' or not about.is_file():
    return False
  try:
    told = json.loads(about.read_bytes())
  except (OSError, ValueError):
    return False
  return isinstance(told, dict) and {'v2meow_jax', 'bundle', 'request'} <= told.keys()


def write(
  folder: pathlib.Path,
  name: str,
  pipeline: Pipeline,
  made: Generated,
  wanted: Request,
  about: dict[str, Any],
  *,
  target: float = loudness.MUSIC,
  playable: bool = False,
  watch: Callable[[], None] = lambda: None,
  painter: Painter | None = None,
) -> list[pathlib.Path]:
  """Writes the music (.wav), with the video's pictures (.mp4), drawn (.png), and `about` (.json), the last.

  Args:
    folder: is there.
    name: of the files, without suffix.
    pipeline: that made it.
    made: what it made.
    wanted: what was asked for.
    about: see `describe`.
    target: loudness of the music, in LUFS.
    playable: the film's pictures are encoded again where browsers would not play them.
    watch: called all the time while the film is written; what it raises ends the writing.
    painter: draws the picture, meanwhile if it can.

  Returns:
    the files' paths.
  """
  paths = {suffix: folder / f'{name}.{suffix}' for suffix in SUFFIXES}
  music = loudness.normalize_loudness(made.audio, made.sample_rate, target)
  paths['json'].unlink(missing_ok=True)
  audio.write_wav(paths['wav'], music, made.sample_rate)
  shown = [(stream, made.streams[stream.name]) for stream in pipeline.shown(made)]
  mono = music.mean(1, keepdims=True)  # what is drawn of it
  finish_drawing = (painter or Painter()).begin(
    paths['png'], mono, made.sample_rate, shown, f'{name}, seed {wanted.seed}'
  )
  if wanted.video is None:
    del paths['mp4']
  else:
    seconds = len(music) / made.sample_rate
    mux.mux(wanted.video, music, made.sample_rate, paths['mp4'], seconds, playable=playable, watch=watch)
  finish_drawing()
  files.write_text(paths['json'], json.dumps(about, indent=2) + '\n')
  return list(paths.values())
