"""Does a stage listen? Likelihood of a crop under its own conditions against other ones.

Four kinds of others tell what is heard: the same video moved by some seconds (timing), another moment of the
same track (what changes within a piece), another track (what a piece is like), and none.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from v2meow_jax import errors, linen
from v2meow_jax.data import order
from v2meow_jax.data.dataset import Dataset
from v2meow_jax.evaluation import bootstrap
from v2meow_jax.evaluation.kept import Kept
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.models.trainable import token_losses
from v2meow_jax.stages import Stage
from v2meow_jax.streams import Stream, crop_all

OTHERS = ('shifted', 'moment', 'track', 'none')
PLACES = 5  # parts of a crop
VERSION = 2  # of scores that are kept
_DISTANT = 0.75  # of a crop: least distance of another moment


@dataclasses.dataclass(frozen=True)
class Crop:
  """A place in the split: clip by number, start in seconds, and its track."""

  clip: int
  start: Fraction
  track: str


class Places:
  """Crops of a split, and others to take conditions from; computed from a seed, so always the same.

  Args:
    dataset: a split.
    stage: whose crops they are.
    seed: of the choice.
  """

  def __init__(self, dataset: Dataset, stage: Stage, seed: int):
    self._seed, self._crop = seed, stage.crop_seconds
    self._grid = min(stream.rate for stream in stage.streams if stream.rate)
    self._ids, self._durations, self._tracks = [], [], []
    self._clips_of: dict[str, list[int]] = {}
    for number, clip in enumerate(dataset.clips):
      self._ids.append(clip.id)
      self._durations.append(Fraction(clip.duration).limit_denominator(10**6))
      self._tracks.append(clip.source)
      self._clips_of.setdefault(clip.source, []).append(number)

  @property
  def tracks(self) -> int:
    """How many there are."""
    return len(self._clips_of)

  def choose(self, count: int) -> list[Crop]:
    """`count` crops, tracks taking turns, so that every track is heard before one is heard twice."""
    names = list(self._clips_of)
    sequence = order.permutation(self._seed, 0, len(names))
    chosen = []
    for n in range(count):
      turn, place = divmod(n, len(names))
      track = names[sequence[place]]
      clips = self._clips_of[track]
      clip = clips[order.permutation(self._seed, turn // len(clips), len(clips))[turn % len(clips)]]
      chosen.append(Crop(clip, self._start(clip, turn), track))
    return chosen

  def _start(self, clip: int, turn: int) -> Fraction:
    return order.crop_start(
      order.clip_hash(self._ids[clip]), turn, self._seed, self._durations[clip], self._crop, self._grid
    )

  def shifted(self, crop: Crop, seconds: float) -> Crop | None:
    """The same clip `seconds` later, or where that does not fit as much earlier; None where neither fits."""
    step = Fraction(round(Fraction(seconds) * self._grid)) / self._grid
    for start in (crop.start + step, crop.start - step):
      if 0 <= start <= self._durations[crop.clip] - self._crop:
        return dataclasses.replace(crop, start=start)
    return None

  def moment(self, crop: Crop) -> Crop | None:
    """Another moment of the same track, at least three quarters of a crop away; None where there is none."""
    found = []
    for clip in self._clips_of[crop.track]:
      last = self._durations[clip] - self._crop
      if last < 0:
        continue
      for number in range(int(last * self._grid) + 1):
        start = number / self._grid
        if clip != crop.clip or abs(start - crop.start) >= Fraction(_DISTANT) * self._crop:
          found.append(Crop(clip, Fraction(start), crop.track))
    return found[order.fold(self._seed, *self._key(crop)) % len(found)] if found else None

  def other(self, crop: Crop) -> Crop | None:
    """A moment of another track; None where there is only one track."""
    names = [name for name in self._clips_of if name != crop.track]
    if not names:
      return None
    number = order.fold(self._seed + 1, *self._key(crop))
    clips = self._clips_of[names[number % len(names)]]
    clip = clips[number // len(names) % len(clips)]
    return Crop(clip, self._start(clip, 1 + number % 997), self._tracks[clip])

  def _key(self, crop: Crop) -> tuple[int, int]:
    return crop.clip, int(crop.start * self._grid)


def read(dataset: Dataset, streams: Sequence[Stream], crop: Crop, seconds: Fraction) -> dict:
  """An example, as training has it."""

  def elements(stream: Stream, first: int, stop: int) -> np.ndarray:
    return dataset.read(stream, crop.clip, first, stop)

  return crop_all(streams, elements, crop.start, seconds)


@dataclasses.dataclass(frozen=True)
class Scores:
  """Of crops under one kind of condition.

  Attributes:
    nats: [crops, places, levels], sums over the tokens of a part of the crop.
    hits: likewise, tokens of which the code was the likeliest.
    tokens: [crops, places], frames that count.
  """

  nats: Float[np.ndarray, 'crops places levels']
  hits: Float[np.ndarray, 'crops places levels']
  tokens: Float[np.ndarray, 'crops places']


# batch -> (nats, hits, tokens) of `Scores`
Score = Callable[[dict], tuple[np.ndarray, np.ndarray, np.ndarray]]


def scorer(runner: StageRunner) -> Score:
  """batch -> (nats, hits, tokens) of `Scores`."""
  target = runner.stage.target
  place = np.arange(runner.stage.frames) * PLACES // runner.stage.frames
  parts = np.eye(PLACES, dtype=np.float32)[place]  # [frames, places]

  @jax.jit
  def score(params, batch):
    logits = linen.call(runner.model, params, batch)
    tokens = batch[target.stream.name][..., slice(*target.span)]
    weight = batch[f'{target.stream.name}/mask'].astype(jnp.float32)[..., None] * parts
    nats, hits = token_losses(logits, tokens), (jnp.argmax(logits, -1) == tokens).astype(jnp.float32)
    return *(jnp.einsum('bfp,bfl->bpl', weight, x) for x in (nats, hits)), weight.sum(1)

  def scored(batch: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    nats, hits, weight = score(runner.params, batch)
    return np.asarray(nats, np.float64), np.asarray(hits, np.float64), np.asarray(weight, np.float64)

  return scored


def remembered(
  score: Score, levels: int, kept: Kept, about: Mapping[str, Any], shard: tuple[int, int] = (0, 1)
) -> Score:
  """A scorer whose results are kept, so that a killed evaluation goes on and several processes share one.

  Args:
    score: of a batch.
    levels: of what is predicted.
    kept: where.
    about: JSON values that decide the scores, besides the batch.
    shard: (i, n): only every n-th batch from the i-th on is scored; what comes of others is of no use.
  """
  numbers = itertools.count()

  def scored(batch: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if next(numbers) % shard[1] != shard[0]:
      nothing = np.zeros((len(next(iter(batch.values()))), PLACES, levels))
      return nothing, nothing, np.ones(nothing.shape[:2])
    told = hashlib.sha256()
    for name in sorted(batch):
      told.update(f'{name} {batch[name].dtype} {batch[name].shape}'.encode())
      told.update(np.ascontiguousarray(batch[name]).tobytes())

    def make() -> dict[str, np.ndarray]:
      return dict(zip(('nats', 'hits', 'tokens'), score(batch), strict=True))

    found = kept.get({**about, 'scores': VERSION, 'batch': told.hexdigest()}, make)
    return found['nats'], found['hits'], found['tokens']

  return scored


def exchanged(example: dict, other: dict | None, streams: Sequence[str]) -> dict:
  """The example with conditions of another, or with none.

  They stand where the example's own did, to less than an element: streams of one rate are in step with each
  other in every crop, and a stage that is told otherwise fails for that alone.
  """
  changed = dict(example)
  for name in streams:
    if other is None:
      changed[f'{name}/mask'] = np.zeros_like(example[f'{name}/mask'])
    else:
      changed |= {key: other[key] for key in (name, f'{name}/mask')}
  return changed


def score_all(
  score: Score,
  examples: Iterator[dict | None],
  levels: int,
  size: int = 8,
) -> Scores:
  """Scores of examples, `size` at a time; NaN where there is none."""
  rows: list = [[], [], []]

  def run(part: list[dict | None]) -> None:
    there = [row for row in part if row is not None]
    if there:
      filled = there + [there[-1]] * (size - len(there))  # one shape is compiled
      found = iter(zip(*score({k: np.stack([row[k] for row in filled]) for k in filled[0]}), strict=True))
    for row in part:
      values = (np.full((PLACES, levels), np.nan),) * 2 + (np.zeros(PLACES),) if row is None else next(found)
      for kept, value in zip(rows, values, strict=True):
        kept.append(value)

  waiting: list[dict | None] = []
  for example in examples:
    waiting.append(example)
    if len(waiting) == size:
      run(waiting)
      waiting = []
  if waiting:
    run(waiting)
  return Scores(*(np.stack(kept) for kept in rows))


def exchangeable(stage: Stage) -> dict[str, list[str]]:
  """Conditions that can be exchanged: each by its stream's name, and all together where there are several.

  The lower levels of what is predicted cannot be exchanged without it.
  """
  names = list(dict.fromkeys(c.stream.name for c in stage.conditions if c.stream != stage.target.stream))
  return {name: [name] for name in names} | ({'all': names} if len(names) > 1 else {})


def gains(own: Scores, other: Scores, tracks: Sequence[str], seed: int = 0) -> dict:
  """Nats a token that the own condition saves against the other, by track; crops without another left out.

  Returns:
    `gain`, an `Estimate.told`; `wins`, share of crops that are likelier under their own condition;
    `places`, the gain by part of the crop, from its beginning to its end; `tracks_needed`, to see it.
  """
  levels = own.nats.shape[2]
  saved = other.nats - own.nats  # [crops, places, levels]
  weight = own.tokens.sum(1) * levels
  each = saved.sum((1, 2)) / np.maximum(weight, 1)
  wins = np.where(np.isfinite(each), each > 0, np.nan)
  told = {
    'gain': bootstrap.mean(each, tracks, weight, unit='nats a token', better='higher', seed=seed).told(),
    'wins': bootstrap.mean(wins, tracks, unit='share', better='higher', seed=seed).told(),
    'places': [
      bootstrap.mean(
        saved[:, p].sum(1) / np.maximum(own.tokens[:, p] * levels, 1),
        tracks,
        own.tokens[:, p],
        unit='nats a token',
        seed=seed,
      ).told()
      for p in range(own.nats.shape[1])
    ],
  }
  by_track: dict[str, list[float]] = {}
  for track, value in zip(tracks, each, strict=True):
    if np.isfinite(value):
      by_track.setdefault(track, []).append(float(value))
  count = bootstrap.needed(np.array([np.mean(values) for values in by_track.values()]))
  return told | {'tracks_needed': count if np.isfinite(count) else None}


def measure(
  runner: StageRunner,
  dataset: Dataset,
  *,
  crops: int,
  shift: float = 2.0,
  seed: int = 0,
  progress: Callable[[int, int], None] = lambda done, total: None,
  score: Score | None = None,
) -> tuple[Scores, list[Crop], dict[str, dict[str, dict]]]:
  """(scores under the own conditions, the crops, what each condition gains against each kind of other).

  Args:
    runner: a stage.
    dataset: a split with its streams.
    crops: to be measured.
    shift: seconds by which a video is moved.
    seed: of the choice.
    progress: told how many of the passes are done.
    score: of a batch; by default the runner's.

  Raises:
    errors.DatasetError: no crop holds a token.
  """
  stage = runner.stage
  places = Places(dataset, stage, seed)
  chosen, score = places.choose(crops), score or scorer(runner)
  kinds: Mapping[str, Callable[[Crop], Crop | None]] = {
    'shifted': lambda crop: places.shifted(crop, shift),
    'moment': places.moment,
    'track': places.other,
  }
  conditions = exchangeable(stage)
  total, done = 1 + len(conditions) * len(OTHERS), 0

  def example(crop: Crop) -> dict:
    return read(dataset, stage.streams, crop, stage.crop_seconds)

  def run(examples: Iterator[dict | None]) -> Scores:
    nonlocal done
    found = score_all(score, examples, stage.target.depth)
    done += 1
    progress(done, total)
    return found

  own = run(example(crop) for crop in chosen)
  if not own.tokens.sum():
    raise errors.DatasetError(f'stage {stage.name!r}: no crop of {dataset.directory} holds a token')
  tracks = [crop.track for crop in chosen]
  told: dict[str, dict[str, dict]] = {}
  for name, streams in conditions.items():
    told[name] = {}
    for kind in OTHERS:

      def changed(crop: Crop, streams=streams, kind=kind) -> dict | None:
        other = None if kind == 'none' else kinds[kind](crop)
        if other is None and kind != 'none':
          return None
        return exchanged(example(crop), None if other is None else example(other), streams)

      told[name][kind] = gains(own, run(map(changed, chosen)), tracks, seed)
  return own, chosen, told
