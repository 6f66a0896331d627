"""The files of a piece that was generated: film, music, picture, and what was asked for."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from v2meow_jax import __version__, description, files
from v2meow_jax.generation import picture
from v2meow_jax.generation.pipeline import Generated, Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.generation.sampling import Sampling
from v2meow_jax.media import audio, loudness, mux

SUFFIXES = ('mp4', 'wav', 'png', 'json')


def describe(wanted: Request, digest: str, sampling: Mapping[str, Sampling]) -> dict[str, Any]:
  """What the results' JSON says: enough to make them again.

  Args:
    wanted: what was asked for.
    digest: the bundle's.
    sampling: by stage.
  """
  asked = {key: value if value is None or isinstance(value, int | float) else str(value)
           for key, value in dataclasses.asdict(wanted).items()}  # fmt: skip
  return {
    'v2meow_jax': __version__,
    'bundle': digest,
    'request': asked,
    'sampling': description.describe(dict(sampling)),
  }


def complete(folder: pathlib.Path, name: str, about: dict[str, Any]) -> bool:
  """Whether the results of just this are there; the JSON is written last."""
  try:
    return json.loads((folder / f'{name}.json').read_text()) == json.loads(json.dumps(about))
  except (OSError, json.JSONDecodeError):
    return False


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

  Returns:
    the files' paths.
  """
  paths = {suffix: folder / f'{name}.{suffix}' for suffix in SUFFIXES}
  music = loudness.normalize_loudness(made.audio, made.sample_rate, target)
  paths['json'].unlink(missing_ok=True)
  audio.write_wav(paths['wav'], music, made.sample_rate)
  if wanted.video is None:
    del paths['mp4']
  else:
    seconds = len(music) / made.sample_rate
    mux.mux(wanted.video, music, made.sample_rate, paths['mp4'], seconds, playable=playable)
  told = dataclasses.replace(made, audio=music)
  picture.draw(paths['png'], told, pipeline.shown(made), f'{name}, seed {wanted.seed}')
  files.write_text(paths['json'], json.dumps(about, indent=2) + '\n')
  return list(paths.values())
