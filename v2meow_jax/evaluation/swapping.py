"""Which stage costs what? Music of each stage when those before it are given the truth."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from v2meow_jax import description, errors, files
from v2meow_jax.evaluation.subjects import Piece
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.score import Progress
from v2meow_jax.generation.tasks import Task
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import loudness
from v2meow_jax.media.clip import MediaClip


def ways(pipeline: Pipeline) -> dict[str, int]:
  """By way, how many stages are given the truth: not none (that is `made`) and not all (the codec's)."""
  names = [runner.stage.name for runner in pipeline.stages]
  return {f'truth up to {names[count - 1]}': count for count in range(1, len(names))}


def pieces(pipeline: Pipeline, whole: Sequence[Piece], out: pathlib.Path) -> dict[str, list[Piece]]:
  """What `make` makes, as pieces by way; those that are not there are left out."""
  return {
    way: [
      dataclasses.replace(piece, made=out / str(count) / f'{piece.name}.wav')
      for piece in whole
      if (out / str(count) / f'{piece.name}.json').is_file()
    ]
    for way, count in ways(pipeline).items()
  }


def make(
  pipeline: Pipeline,
  digest: str,
  paired: Sequence[tuple[Task, Piece]],
  out: pathlib.Path,
  *,
  together: int,
  progress: Progress,
) -> None:
  """Writes OUT/COUNT/NAME.wav of each way and piece, and a JSON of what it is; goes on after a kill.

  Args:
    pipeline: of the bundle with this `digest`.
    paired: tasks whose pieces have a truth.
    out: folder.
    together: pieces side by side.
    progress: told of windows.
  """
  for count in ways(pipeline).values():
    folder = out / str(count)
    folder.mkdir(parents=True, exist_ok=True)
    about = {piece.name: _about(pipeline, digest, task, count) for task, piece in paired}
    todo = [pair for pair in paired if not _complete(folder, pair[1], about)]
    for at in range(0, len(todo), together):
      group = todo[at : at + together]
      known = [_known(pipeline, task, piece, count) for task, piece in group]
      made = pipeline.generate_batch([task.request for task, _ in group], known=known, progress=progress)
      for (_, piece), generated in zip(group, made, strict=True):
        place, rate = folder / f'{piece.name}.json', generated.sample_rate
        place.unlink(missing_ok=True)
        levelled = loudness.normalize_loudness(generated.audio, rate)
        audio_files.write_wav(place.with_suffix('.wav'), levelled, rate)
        files.write_text(place, about[piece.name])


def _complete(folder: pathlib.Path, piece: Piece, about: Mapping[str, str]) -> bool:
  place = folder / f'{piece.name}.json'
  return place.is_file() and place.read_text() == about[piece.name] and place.with_suffix('.wav').is_file()


def _about(pipeline: Pipeline, digest: str, task: Task, count: int) -> str:
  told: dict[str, Any] = {
    'bundle': digest,
    'given': count,
    'sampling': description.describe(pipeline.sampling),
  }
  told |= {
    key: None if value is None else str(value) for key, value in dataclasses.asdict(task.request).items()
  }
  text = json.dumps(told, sort_keys=True)
  return json.dumps({'of': told, 'sha256': hashlib.sha256(text.encode()).hexdigest()}) + '\n'


def _known(pipeline: Pipeline, task: Task, piece: Piece, count: int) -> dict[str, np.ndarray]:
  """Tokens of the piece's truth for the first `count` stages, by stage."""
  encoders = {encoder.stream.name: encoder for encoder in pipeline.token_encoders}
  clip = MediaClip(None, str(piece.truth), 0.0, task.request.seconds)
  known: dict[str, np.ndarray] = {}
  for runner in pipeline.stages[:count]:
    target = runner.stage.target
    encoder = encoders.get(target.stream.name)
    if encoder is None:
      raise errors.ConfigError(f'--swap: the bundle holds no encoder of {target.stream.name} for the truth')
    known[runner.stage.name] = np.asarray(encoder.encode_clip(clip))[:, slice(*target.span)]
  return known
