"""Measures pieces and their controls one by one, each once: memory does not grow with their number."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import soxr

from v2meow_jax import errors
from v2meow_jax.codec.codec import Codec
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.encoders.motion import COLUMNS, MotionEncoder
from v2meow_jax.evaluation import controls, features, provenance, sets
from v2meow_jax.evaluation.features import Heard
from v2meow_jax.evaluation.kept import Kept, pack, unpack
from v2meow_jax.evaluation.subjects import Piece
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media.clip import MediaClip

# One frame an element: a cut is placed to a twelfth of a second.
MOTION = MotionEncoder(rate=Fraction(12), frames=1)


@dataclasses.dataclass(frozen=True)
class Measured:
  """A piece or a control of it, without its sound.

  Attributes:
    heard: see `features.Heard`.
    embeddings: by embedder, [windows, dimensions]; `filterbank` is always there.
    counts: occurrences of tokens, [levels, codes], by stream.
    labels: distributions over labels, by network.
  """

  heard: Heard
  embeddings: dict[str, np.ndarray]
  counts: dict[str, np.ndarray]
  labels: dict[str, np.ndarray]


class Sound(MediaClip):
  """Sound in memory as encoders take it."""

  @classmethod
  def of(cls, audio: np.ndarray, rate: int) -> 'Sound':
    """Of [samples, channels] at `rate` Hz."""
    made = cls(None, None, 0.0, len(audio) / rate)
    made._cache['own'] = (audio, rate)
    return made

  def audio(self, sample_rate: int, channels: int = 1) -> np.ndarray:
    """See `MediaClip.audio`."""
    own, rate = self._cache['own']
    mixed = own if own.shape[1] == channels else np.repeat(own.mean(1, keepdims=True), channels, 1)
    sound = mixed if rate == sample_rate else soxr.resample(mixed, rate, sample_rate, 'HQ')
    length = round(self.duration * sample_rate)
    return np.pad(sound[:length], ((0, max(0, length - len(sound))), (0, 0))).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Tools:
  """What pieces are measured with.

  Attributes:
    seconds: of each piece, from its start.
    codec: of the bundle; None: there is none, and no control that needs it.
    tokens: encoders of token streams, besides the codec, whose distributions are compared.
    embedders: encoders of sound, besides the filter bank.
    labellers: encoders of sound whose elements are logits of labels.
    seed: of noise and of random tokens.
  """

  seconds: float
  codec: Codec | None = None
  tokens: tuple[Encoder, ...] = ()
  embedders: tuple[Encoder, ...] = ()
  labellers: tuple[Encoder, ...] = ()
  seed: int = 0

  def about(self) -> dict[str, Any]:
    """What decides the figures."""
    encoders = [*self.tokens, *self.embedders, *self.labellers, *([self.codec] if self.codec else [])]
    return {
      'features': features.VERSION,
      'seconds': self.seconds,
      'encoders': json.loads(json.dumps([dict(encoder.identity) for encoder in encoders])),
    }

  def ways(self) -> list[str]:
    """Controls that have a sound of their own."""
    return ['truth', *(['codec', 'unigram'] if self.codec else []), 'noise', 'silence']


def load(path: pathlib.Path, seconds: float) -> tuple[np.ndarray, int]:
  """Sound from the start of a file at its own rate, one or two channels.

  Raises:
    errors.MediaError: it cannot be read, or has less than half a second.
  """
  sound, rate = audio_files.load_audio(path, None, None, 0.0, seconds)
  if sound.shape[1] > 2:
    sound, rate = audio_files.load_audio(path, None, 2, 0.0, seconds)
  if len(sound) < rate // 2:
    raise errors.MediaError(f'{path}: {len(sound) / rate:.2f} s of sound are too short to be measured')
  return sound, rate


def measure(audio: np.ndarray, rate: int, tools: Tools) -> dict[str, np.ndarray]:
  """Everything about a sound, as it is kept."""
  arrays = pack(features.hear(audio, rate))
  clip = Sound.of(audio, rate)
  for encoder in tools.embedders:
    arrays[f'embedding/{encoder.stream.name}'] = _windows(encoder, audio, rate)
  for encoder in tools.labellers:
    arrays[f'labels/{encoder.stream.name}'] = sets.posterior(encoder.encode_clip(clip))
  # Networks of others hear files as they are, as published figures do; tokens are compared at one loudness.
  clip = Sound.of(audio * features.gain(audio.mean(1), rate), rate)
  for encoder in (*tools.tokens, *([tools.codec] if tools.codec else [])):
    stream, codes = encoder.stream, np.asarray(encoder.encode_clip(clip))
    arrays[f'counts/{stream.name}'] = np.stack(
      [np.bincount(codes[:, k], minlength=stream.codes) for k in range(stream.width)]
    )
  return arrays


def _windows(encoder: Encoder, audio: np.ndarray, rate: int) -> np.ndarray:
  """An embedder's vectors: of each 10 s where it has one vector for a clip, else the mean of each 10 s."""
  size = min(len(audio), 10 * rate)
  rows = []
  for at in range(0, max(1, len(audio) - size + 1), size):
    rows.append(np.asarray(encoder.encode_clip(Sound.of(audio[at : at + size], rate)), np.float32).mean(0))
  found = np.stack(rows)
  if not np.isfinite(found).all():
    raise errors.DatasetError(
      f'{encoder.stream.name}: the embedding of a piece holds values that are not finite'
    )
  return found


def unpacked(arrays: Mapping[str, np.ndarray]) -> Measured:
  """What `measure` packed."""
  heard = unpack(arrays)

  def part(kind: str) -> dict[str, np.ndarray]:
    return {name.split('/', 1)[1]: value for name, value in arrays.items() if name.startswith(f'{kind}/')}

  embeddings = {'filterbank': heard.vectors} | part('embedding')
  return Measured(heard, embeddings, part('counts'), part('labels'))


class Measuring:
  """The pieces of a subject and their controls, measured or as kept.

  Args:
    tools: with what.
    ours, theirs: where figures of what is measured, and of its truth, are kept.
  """

  def __init__(self, tools: Tools, ours: Kept, theirs: Kept):
    self.tools, self._ours, self._theirs = tools, ours, theirs
    self._about = tools.about()
    self._digest = functools.lru_cache(4096)(provenance.digest)

  def made(self, piece: Piece) -> Measured:
    """What is measured."""
    return self._file(piece.made, self._ours)

  def truth(self, piece: Piece) -> Measured:
    """Its truth."""
    assert piece.truth is not None
    return self._file(piece.truth, self._theirs)

  def _file(self, path: pathlib.Path, kept: Kept) -> Measured:
    about = self._about | {'sha256': self._digest(path)}
    return unpacked(kept.get(about, lambda: measure(*load(path, self.tools.seconds), self.tools)))

  def control(self, piece: Piece, way: str, counts: np.ndarray | None) -> Measured:
    """A control of a piece's truth, of `Tools.ways`; `counts` are of the codec's tokens in all truth."""
    if way == 'truth':
      return self.truth(piece)
    assert piece.truth is not None
    about = self._about | {'sha256': self._digest(piece.truth), 'way': way, 'seed': self.tools.seed}
    if way == 'unigram':
      assert counts is not None
      about |= {'counts': provenance.hashed(counts), 'name': piece.name}
    elif way == 'noise':
      about |= {'name': piece.name}
    return unpacked(self._theirs.get(about, lambda: measure(*self.sound(piece, way, counts), self.tools)))

  def sound(self, piece: Piece, way: str, counts: np.ndarray | None) -> tuple[np.ndarray, int]:
    """(audio, rate in Hz) of a control."""
    assert piece.truth is not None
    truth, rate = load(piece.truth, self.tools.seconds)
    rng = controls.generator(piece.name, way, self.tools.seed)
    if way == 'truth':
      return truth, rate
    if way == 'noise':
      return controls.noise(truth, rng), rate
    if way == 'silence':
      return np.zeros_like(truth), rate
    codec = self.tools.codec
    assert codec is not None
    plain = Sound.of(truth, rate).audio(codec.sample_rate, codec.channels)
    if way == 'codec':
      return codec.decode(codec.encode(plain))[: len(plain)], codec.sample_rate
    assert counts is not None
    made = controls.unigram(codec, counts, -(-len(plain) // codec.hop), rng)
    return made[: len(plain)], codec.sample_rate

  @functools.cache  # noqa: B019 (lives as long as an evaluation)
  def texts(self, prompt: str) -> dict[str, np.ndarray]:
    """A prompt's vector in each embedder's space that has a place for texts."""
    encoders = (encoder for encoder in self.tools.embedders if hasattr(encoder, 'encode_text'))
    return {encoder.stream.name: encoder.encode_text(prompt)[0] for encoder in encoders}  # type: ignore

  def pictures(self, piece: Piece) -> dict[str, np.ndarray] | None:
    """Measurements of a piece's video by column, at 12 Hz; None where it has none."""
    if piece.video is None:
      return None
    path = piece.video
    about = {'sha256': self._digest(path), 'motion': json.loads(json.dumps(MOTION.identity))}
    about |= {'seconds': self.tools.seconds}

    def make() -> dict[str, np.ndarray]:
      clip = MediaClip(str(path), None, 0.0, self.tools.seconds)
      return {'columns': MOTION.encode_clip(clip)}

    columns = self._theirs.get(about, make)['columns']
    return {name: columns[:, n] for n, name in enumerate(COLUMNS)}


def run(
  pieces: Sequence[Piece],
  measuring: Measuring,
  shard: tuple[int, int],
  failures: dict[str, str],
  progress: Callable[[int, int], None],
) -> list[Piece]:
  """Measures what does not depend on the other pieces; the pieces that could be.

  Args:
    pieces: of a subject.
    measuring: keeps the figures.
    shard: (i, n): every n-th piece from the i-th on, so that n processes or hosts can share the work.
    failures: is told, by piece, why one cannot be measured; the rest goes on.
    progress: told how many are done.
  """
  part = list(pieces)[shard[0] :: shard[1]]
  good = []
  for number, piece in enumerate(part, 1):
    try:
      measuring.made(piece)
      measuring.pictures(piece)
      if piece.truth is not None:
        for way in measuring.tools.ways():
          if way != 'unigram':
            measuring.control(piece, way, None)
      good.append(piece)
    except (errors.InputError, ValueError, OSError) as error:
      failures[piece.name] = str(error)
    progress(number, len(part))
  return good
