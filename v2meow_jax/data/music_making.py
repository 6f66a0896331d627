"""Music for training from packages: scores in many performances, and recordings in other keys and tempos.

Work is a list of pieces in a computed order. What is complete stays, and the manifest is written last, so an
interrupted run goes on where it was, and one that asks for more hours adds to what is there.

    DIR/scores/       what music21 read, a JSON a file
    DIR/audio/        a FLAC a piece, and beside it a JSON of what is true of it
    DIR/manifest.jsonl, DIR/rejected.jsonl, DIR/SOURCES.jsonl
"""

import dataclasses
import functools
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import soundfile

from v2meow_jax import errors, files, terminal, workers
from v2meow_jax.data import order, performances, scores, synthesis
from v2meow_jax.data.scores import Score
from v2meow_jax.media import audio

Row = dict[str, Any]
CORPUS = "music21's corpus"
MOST_VARIATIONS = 64  # of a score: more are nothing new
ENCODING = (
  'the composition is in the public domain; the encoding is distributed with music21, whose '
  'corpus/license.txt holds, and may have restrictions of its own'
)


@dataclasses.dataclass(frozen=True)
class Rendering:
  """How scores are rendered.

  Attributes:
    hours: of music that are wanted.
    soundfont: path.
    sample_rate: in Hz.
    channels: 1 or 2.
    validation_share: of the compositions that are held out.
    seed: of all performances.
  """

  hours: float = 40.0
  soundfont: str = synthesis.SOUNDFONT
  sample_rate: int = 24000
  channels: int = 1
  validation_share: float = 0.1
  seed: int = 0

  def __post_init__(self):
    if not 0 < self.hours < 10_000 or self.channels not in (1, 2) or not 8000 <= self.sample_rate <= 96_000:
      raise errors.ConfigError(
        f'{self.hours:g} hours at {self.sample_rate} Hz in {self.channels} channels: hours must be positive, '
        'channels 1 or 2 and the rate 8000 to 96000 Hz'
      )
    if not 0 <= self.validation_share < 1:
      raise errors.ConfigError(f'a validation share of {self.validation_share:g} is not in [0, 1)')


def render_scores(
  paths: Sequence[pathlib.Path], out: pathlib.Path, settings: Rendering, count: int = 1
) -> list[Row]:
  """Renders scores, every one in a performance before any in a second, until there are hours enough.

  Args:
    paths: of the scores, in music21's corpus.
    out: the folder.
    settings: see `Rendering`.
    count: processes.

  Returns:
    the manifest's rows.

  Raises:
    errors.ConfigError: FluidSynth, the soundfont, music21 or mido is missing.
    errors.DatasetError: no score can be read.
  """
  synthesis.check_synthesiser(settings.soundfont)
  for folder in ('scores', 'audio'):
    (out / folder).mkdir(parents=True, exist_ok=True)
  read = functools.partial(scores.cached, folder=out / 'scores')
  with terminal.Progress() as progress:
    found = list(progress.track(_each(read, paths, count), len(paths), 'scores'))
  whole = [score for score in found if isinstance(score, Score)]
  rejected: list[Row] = [
    {'id': scores.identifier(path), 'reason': score}
    for path, score in zip(paths, found, strict=True)
    if isinstance(score, str)
  ]
  if not whole:
    raise errors.DatasetError(f'no score can be read; the first reason: {rejected[0]["reason"]}')
  groups = scores.compositions(whole)
  held_out = split(groups.values(), settings.validation_share)
  wanted, pieces = settings.hours * 3600, []
  total = 0.0
  for variation, score in itertools.product(range(MOST_VARIATIONS), whole):
    if total >= wanted:
      break
    # The notes take a hundredth of the time that their sound does: so the length is known beforehand.
    _, truth = performances.perform(score, groups[score.id], variation, settings.seed)
    total += truth.duration
    pieces.append((score, groups[score.id], variation))
  render = functools.partial(_render, out=out, settings=settings)
  rows = []
  with terminal.Progress() as progress:
    for row in progress.track(_each(render, pieces, count), len(pieces), 'pieces'):
      if 'reason' in row:
        rejected.append(row)
      else:
        rows.append(row | {'split': 'validation' if row['source'] in held_out else 'train'})
  files.write_lines(out / 'rejected.jsonl', rejected)
  files.write_lines(out / 'SOURCES.jsonl', _sources(whole, groups, held_out))
  files.write_lines(out / 'manifest.jsonl', rows)
  return rows


def split(compositions: Iterable[str], share: float) -> set[str]:
  """Compositions that are held out: by a hash of the name, and at least one where there are several."""
  names = sorted(set(compositions), key=order.clip_hash)
  chosen = {name for name in names if order.clip_hash(name) < int(share * 2**64)}
  if share and not chosen and len(names) > 1:
    chosen = {names[0]}
  return chosen


def _each(function: Callable, items: Sequence, count: int) -> Iterator:
  """Results in the order of the items."""
  if count <= 1 or len(items) < 2:
    yield from map(function, items)
    return
  with workers.pool(min(count, len(items))) as pool:
    yield from pool.map(function, items)


def _render(piece: tuple[Score, str, int], out: pathlib.Path, settings: Rendering) -> Row:
  """Renders one performance unless it is there; its row, or the reason why there is none."""
  played, truth = performances.perform(*piece, settings.seed)
  sound_path, truth_path = (out / 'audio' / f'{truth.id}{suffix}' for suffix in ('.flac', '.json'))
  if not _is_complete(sound_path, truth_path, truth, settings):
    truth_path.unlink(missing_ok=True)
    try:
      with tempfile.TemporaryDirectory() as folder:
        midi = pathlib.Path(folder) / 'a.mid'
        performances.write_midi(midi, played, truth.duration)
        sound = synthesis.synthesise(midi, settings.soundfont, truth.duration, settings.sample_rate)
    except errors.MediaError as error:
      return {'id': truth.id, 'reason': str(error)}
    if settings.channels == 1:
      sound = sound.mean(1, keepdims=True)
    synthesis.write_flac(sound_path, sound, settings.sample_rate)
    performances.write_truth(truth_path, truth)  # last
  return {
    'id': truth.id,
    'audio': f'audio/{sound_path.name}',
    'events': f'audio/{truth_path.name}',
    # Without the silence in which the last notes die: what stands still in a video would come to mean it.
    'end': round(max(truth.duration - performances.TAIL, truth.duration / 2), 3),
    'source': truth.composition,
    'title': truth.title,
    'author': truth.composer,
    'caption': truth.caption,
    'licence': truth.rights or ENCODING,
  }


def _is_complete(
  sound: pathlib.Path, truth_path: pathlib.Path, truth: performances.Truth, settings: Rendering
) -> bool:
  """Whether just this performance is there, in this rate and number of channels."""
  if not (sound.is_file() and truth_path.is_file()):
    return False
  try:
    about = soundfile.info(sound)
    same = performances.read_truth(truth_path) == truth
  except (errors.DatasetError, soundfile.SoundFileError):
    return False
  return same and (about.samplerate, about.channels) == (settings.sample_rate, settings.channels)


def _sources(found: Sequence[Score], groups: dict[str, str], held_out: set[str]) -> Iterator[Row]:
  """The card: origin and rights of every score."""
  for score in found:
    yield {
      'score': score.id,
      'title': score.title,
      'composer': score.composer,
      'composition': groups[score.id],
      'split': 'validation' if groups[score.id] in held_out else 'train',
      'origin': CORPUS,
      'rights': score.rights or ENCODING,
    }


def vary_recordings(rows: Sequence[Row], out: pathlib.Path, variations: int, sample_rate: int) -> list[Row]:
  """Recordings as they are and in other keys (up to 5 semitones) and tempos (up to 8 %).

  Args:
    rows: `id`, `audio`, and whatever else is to be kept of each, its licence for one.
    out: the folder; it gets `audio/ID.N.flac` and `manifest.jsonl`.
    variations: of each, besides the recording itself.
    sample_rate: in Hz.

  Returns:
    the manifest's rows; all variations of a recording are of one source, and so of one split.
  """
  (out / 'audio').mkdir(parents=True, exist_ok=True)
  made, rejected = [], []
  jobs = list(itertools.product(rows, range(variations + 1)))
  with terminal.Progress() as progress:
    for row, number in progress.track(jobs, len(jobs), 'pieces'):
      name = f'{row["id"]}.{number}'
      path = out / 'audio' / f'{name}.flac'
      rng = np.random.default_rng([order.clip_hash(name) % 2**63])
      semitones, tempo = (int(rng.integers(-5, 6)), float(rng.uniform(0.92, 1.08))) if number else (0, 1.0)
      try:
        if not path.is_file():
          sound, _ = audio.load_audio(row['audio'], sample_rate, 1)
          synthesis.write_flac(path, synthesis.varied(sound, sample_rate, semitones, tempo), sample_rate)
      except errors.MediaError as error:
        rejected.append(row | {'id': name, 'reason': str(error)})
        continue
      about = {'id': name, 'audio': f'audio/{path.name}', 'source': row.get('source') or row['id']}
      made.append(row | about | {'transposition': semitones, 'tempo_factor': round(tempo, 6)})
  files.write_lines(out / 'rejected.jsonl', rejected)
  files.write_lines(out / 'manifest.jsonl', made)
  return made
