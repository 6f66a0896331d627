"""What is asked for, and what the stages are given for it."""

import dataclasses
import functools
import hashlib
import math
import numbers
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from v2meow_jax import errors, manifests
from v2meow_jax.encoders.base import Encoder, GradualEncoder, StyleEncoder
from v2meow_jax.generation.elements import Elements
from v2meow_jax.media import probe
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.stages import Stage

SHORTEST = 0.5  # seconds
LONGEST = 3600.0  # seconds that are generated without being asked for by name
PROMPT_CHARACTERS = 2000  # far beyond what a text encoder reads


@dataclasses.dataclass(frozen=True)
class Request:
  """A piece of music that is wanted.

  Attributes:
    video: path of the video to be scored; None: music without one, for which `duration` is needed.
    prompt: a text that says how the music is to be; needs a bundle with a style encoder of texts.
    style: path of a recording whose style the music is to have, instead of a prompt.
    beginning: path of a recording that the music begins with and goes on from.
    beginning_seconds: how much of it; all by default.
    seed: same seed, video, bundle and machine: same bits.
    duration: seconds from the start of the video; all of it by default.
  """

  video: str | os.PathLike | None = None
  prompt: str | None = None
  style: str | os.PathLike | None = None
  beginning: str | os.PathLike | None = None
  beginning_seconds: float | None = None
  seed: int = 0
  duration: float | None = None

  def __post_init__(self):
    try:
      manifests.check(self._plain(), manifests.PieceRow)
    except errors.DatasetError as error:
      raise errors.ConfigError(f'a request: {error}') from error
    if not 0 <= self.seed < 2**32:
      raise errors.ConfigError(f'seed {self.seed} is not between 0 and 2^32 - 1')
    if self.prompt is not None and self.style is not None:
      raise errors.ConfigError('a prompt and a style recording exclude each other; give one of them')
    if self.prompt is not None and not self.prompt.strip():
      raise errors.ConfigError('the prompt is empty; write what the music should be like, or give none')
    if self.prompt is not None and len(self.prompt) > PROMPT_CHARACTERS:
      raise errors.ConfigError(
        f'the prompt has {len(self.prompt)} characters; at most {PROMPT_CHARACTERS} are read'
      )
    for name in ('duration', 'beginning_seconds'):
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise errors.ConfigError(f'{name}: {value:g} s is not a positive time')

  def _plain(self) -> dict[str, Any]:
    """What is asked for in the types of a manifest, as far as that loses nothing."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, bytes | os.PathLike):
        value = os.fsdecode(value)
      elif isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = int(value) if isinstance(value, numbers.Integral) else float(value)
      plain[field.name] = value
    return plain

  @functools.cached_property
  def seconds(self) -> float:
    """Length of the music.

    Raises:
      errors.MediaError: the video cannot be read, or is too short or too long.
      errors.ConfigError: neither a video nor a duration.
    """
    if self.video is None:
      if self.duration is None:
        raise errors.ConfigError('without a video a duration is needed')
      length, told = self.duration, 'duration'
    else:
      told = str(self.video)
      info = probe.probe(self.video)
      if info.video is None:
        raise errors.MediaError(f'{told}: there is no video stream in it')
      own = info.video.duration
      if not 0 <= own < math.inf:
        raise errors.MediaError(f'{told}: the video does not say how long it is')
      length = own if self.duration is None else min(self.duration, own)
    if length < SHORTEST:
      raise errors.MediaError(f'{told}: {length:.2f} s are too short to make music for')
    if length > LONGEST and self.duration is None:
      raise errors.MediaError(f'{told}: {length:.0f} s are more than an hour; name a duration')
    return length

  @property
  def exact(self) -> Fraction:
    """`seconds` as what windows are laid out by."""
    return Fraction(self.seconds).limit_denominator(10**6)

  @property
  def given(self) -> frozenset[str]:
    """Groups of conditions that there is something for."""
    groups = {'video': self.video, 'style': self.style if self.prompt is None else self.prompt}
    return frozenset(group for group, value in groups.items() if value is not None)


@dataclasses.dataclass(frozen=True)
class Piece:
  """A request, encoded.

  Attributes:
    duration: exact, in seconds.
    streams: what encoders make, by name; of the video as far as it is asked for.
    given: groups of conditions that there is something for.
    beginning: token streams that are known from the start, by name.
    seed: of the request.
    mark: the video's `fingerprint`; None without one.
  """

  duration: Fraction
  streams: dict[str, Elements]
  given: frozenset[str]
  beginning: dict[str, np.ndarray]
  seed: int
  mark: int | None


def fingerprint(path: str | os.PathLike) -> int:
  """A number from a file's size and ends, whatever its name."""
  digest = hashlib.sha256()
  with open(path, 'rb') as file:
    size = file.seek(0, os.SEEK_END)
    digest.update(str(size).encode())
    for place in (0, max(0, size - 65536)):
      file.seek(place)
      digest.update(file.read(65536))
  return int.from_bytes(digest.digest()[:4], 'little')


def check(request: Request, encoders: Sequence[Encoder], stages: Sequence[Stage]) -> None:
  """Raises `errors.ConfigError` where the request lacks, or has, what the models do not take."""
  _ = request.seconds  # says what is wrong with the video or the duration
  styles = [encoder for encoder in encoders if isinstance(encoder, StyleEncoder)]
  for told, wanted in (('prompt', request.prompt), ('style', request.style)):
    if wanted is not None and not styles:
      raise errors.ConfigError(f'a {told} was given, but the bundle was not trained with a style condition')
  if request.style is not None and not any(encoder.needs == 'audio' for encoder in styles):
    raise errors.ConfigError('a style recording was given, but the bundle knows words alone; give a prompt')
  missing = (
    {encoder.stream.name for encoder in encoders if encoder.needs == 'video'}
    if request.video is None
    else set()
  )
  if request.prompt is None:
    deaf = request.style is None
    missing |= {encoder.stream.name for encoder in styles if deaf or encoder.needs != 'audio'}
  for stage in stages:
    for condition in stage.conditions:
      if condition.stream.name in missing and not condition.dropout:
        hears = any(encoder.needs == 'audio' for encoder in styles)
        asked = 'a prompt or a style recording' if hears else 'a prompt'
        what = asked if condition.stream.name.startswith('style') else 'a video'
        raise errors.ConfigError(
          f'stage {stage.name!r} was trained with {condition.stream.name} always there: {what} is needed'
        )


def encode(request: Request, encoders: Sequence[Encoder], token_encoders: Sequence[Encoder]) -> Piece:
  """Encodes what a request brings along.

  Args:
    request: checked by `check`.
    encoders: of conditions that no stage makes.
    token_encoders: of the streams that stages make, for a beginning.

  Raises:
    errors.MediaError: a file cannot be read.
    errors.ConfigError: a beginning cannot be encoded by the bundle.
  """
  streams: dict[str, Elements] = {}
  for encoder in encoders:
    if isinstance(encoder, StyleEncoder):
      if request.prompt is not None:
        streams[encoder.stream.name] = Elements([encoder.encode_text(request.prompt)])
      elif request.style is not None and encoder.needs == 'audio':
        streams[encoder.stream.name] = Elements([encoder.encode_clip(_recording(request.style))])
    elif request.video is not None:
      clip = MediaClip(str(request.video), None, 0.0, request.seconds)
      gradual = isinstance(encoder, GradualEncoder)
      blocks = encoder.encode_gradually(clip) if gradual else [encoder.encode_clip(clip)]
      streams[encoder.stream.name] = Elements(blocks)
  beginning = {}
  if request.beginning is not None:
    clip = _recording(request.beginning, request.beginning_seconds)
    beginning = {encoder.stream.name: np.asarray(encoder.encode_clip(clip)) for encoder in token_encoders}
  mark = None if request.video is None else fingerprint(request.video)
  return Piece(request.exact, streams, request.given, beginning, request.seed, mark)


def _recording(path: str | os.PathLike, seconds: float | None = None) -> MediaClip:
  info = probe.probe(path)
  if info.audio is None:
    raise errors.MediaError(f'{path}: there is no sound in it')
  length = info.audio.duration
  if min(length, seconds or length) > LONGEST:
    raise errors.MediaError(f'{path}: {length:.0f} s of sound are more than an hour; cut out a part of it')
  return MediaClip(None, str(path), 0.0, min(length, seconds or length))
