"""Performances of a score: key, tempo, instruments and dynamics drawn by a seed, and what is true of them.

A performance is drawn in sections of a few bars. Each has an energy between calm and full, from which
follow loudness, the octaves that are doubled and a little of the tempo; so loudness and attacks change over a
piece in ways that a video can show and a model can be asked for. Everything in seconds is exact: it is what
the synthesiser is told, not what was measured of its sound.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import msgspec
import numpy as np

from v2meow_jax import errors, files
from v2meow_jax.data.scores import Score

# General MIDI programs by part from the highest down; the last goes for all further ones.
ENSEMBLES = {
  'piano': (0,),
  'strings': (40, 40, 41, 42),
  'winds': (73, 68, 71, 70),
  'harpsichord': (6,),
  'guitar': (24,),
  'flute and strings': (73, 40, 41, 42),
}
# Other words for the advertised ones.
SYNONYMS = {
  'calm': ('calm', 'quiet', 'gentle', 'peaceful', 'soft'),
  'lively': ('lively', 'energetic', 'loud', 'powerful'),
  'slow': ('slow', 'slow', 'slow tempo'),
  'fast': ('fast', 'fast', 'quick'),
  'piano': ('piano', 'piano music', 'solo piano'),
  'strings': ('strings', 'string quartet', 'violins and cello'),
  'winds': ('winds', 'woodwinds', 'wind quartet'),
  'guitar': ('guitar', 'guitar music', 'classical guitar'),
}
SAID = 0.8  # share of the attributes that a caption says
WEIGHTS = (0.4, 0.25, 0.1, 0.05, 0.1, 0.1)
LONGEST = 240.0  # seconds
TAIL = 2.0  # seconds in which the last notes die away
PITCH_NAMES = ('C', 'C sharp', 'D', 'E flat', 'E', 'F', 'F sharp', 'G', 'A flat', 'A', 'B flat', 'B')
CURVE_RATE = 12.5  # Hz of the energy that is kept


@dataclasses.dataclass(frozen=True)
class Played:
  """A note as it is struck: seconds, MIDI pitch and velocity, program and part."""

  start: float
  stop: float
  pitch: int
  velocity: int
  program: int
  part: int


class Truth(msgspec.Struct, frozen=True):
  """What is true of a rendered piece, kept beside it as JSON; times in seconds from the beginning.

  Attributes:
    id: of the piece.
    duration: of the sound.
    composition, score, title, composer, rights: what it is of; see `scores`.
    ensemble: of `ENSEMBLES`.
    transposition: semitones.
    tempo: quarters a minute at an energy of one half.
    tonic, minor: the key that sounds.
    beats: (time, strength); 1 on the first of a bar.
    sections: (time, energy) where each begins.
    onsets: (time, strength, mean pitch) of what is struck at once; strength in (0, 1].
    pitches: pitch classes that sound, [12] a step of `rate`, in summed velocities.
    energy: in [0, 1], of every step of `rate` Hz.
    rate: in Hz.
  """

  id: str
  duration: float
  composition: str
  score: str
  title: str
  composer: str
  rights: str
  ensemble: str
  transposition: int
  tempo: float
  tonic: int
  minor: bool
  beats: list[tuple[float, float]]
  sections: list[tuple[float, float]]
  onsets: list[tuple[float, float, float]]
  pitches: list[list[float]]
  energy: list[float]
  rate: float = CURVE_RATE

  @property
  def key(self) -> str:
    """The key in words."""
    return f'{PITCH_NAMES[self.tonic]} {"minor" if self.minor else "major"}'

  @property
  def words(self) -> dict[str, str]:
    """The piece's own attributes, each in the one word that is advertised."""
    mean = float(np.mean(self.energy))
    heights = [pitch for _, _, pitch in self.onsets]
    return {
      'mood': 'calm' if mean < 0.48 else 'lively' if mean > 0.58 else '',
      'shade': 'dark' if np.mean(heights) < 58 else 'bright' if np.mean(heights) > 62.5 else 'warm',
      'ensemble': self.ensemble,
      'key': self.key,
      'speed': 'slow' if self.tempo < 80 else 'fast' if self.tempo > 110 else '',
    }

  @property
  def caption(self) -> str:
    """What somebody might say of the piece: some of its attributes, in words drawn by its name."""
    rng = np.random.default_rng(list(hashlib.sha256(self.id.encode()).digest()))
    said = {name: word if rng.random() < SAID else '' for name, word in self.words.items()}

    def drawn(word: str) -> str:
      return str(rng.choice(SYNONYMS.get(word, (word,)))) if word else ''

    key = ''
    if said['key']:
      mode = said['key'].rpartition(' ')[2]
      key = str(rng.choice((f'in {said["key"]}', f'in a {mode} key')))
    adjectives = [word for name in ('mood', 'speed', 'shade') if (word := drawn(said[name]))]
    rng.shuffle(adjectives)
    return ' '.join([*adjectives, drawn(said['ensemble']) or 'music', *([key] if key else [])])


def read_truth(path: str | os.PathLike) -> Truth:
  """What `write_truth` wrote.

  Raises:
    errors.DatasetError: missing or damaged.
  """
  with errors.translated(errors.DatasetError, f'{path}: does not say what is true of a rendered piece'):
    try:
      return msgspec.json.decode(pathlib.Path(path).read_bytes(), type=Truth)
    except OSError as error:
      raise errors.DatasetError(f'{path}: cannot be read ({error.strerror})') from error


def write_truth(path: pathlib.Path, truth: Truth) -> None:
  """Writes the JSON beside a piece."""
  files.write_bytes(path, msgspec.json.encode(truth))


def perform(score: Score, composition: str, variation: int, seed: int = 0) -> tuple[list[Played], Truth]:
  """A performance of a score: the notes as they are struck, and what is true of them.

  Args:
    score: which.
    composition: that it is of.
    variation: number of the performance; 0 is in the score's own key.
    seed: of all performances.
  """
  digest = hashlib.sha256(f'{seed} {variation} {score.id}'.encode()).digest()
  rng = np.random.default_rng(list(digest))
  low, high = min(n.pitch for n in score.notes), max(n.pitch for n in score.notes)
  drawn = int(rng.integers(max(-5, min(0, 28 - low)), min(5, max(0, 96 - high)) + 1))
  transposition = drawn if variation else 0
  name = list(ENSEMBLES)[int(rng.choice(len(ENSEMBLES), p=WEIGHTS))]
  written = score.tempo if 40 <= score.tempo <= 200 else float(rng.uniform(72, 116))
  tempo = float(np.clip(written * rng.uniform(0.85, 1.18), 50, 180))
  starts, energies = _sections(score, rng)
  quarters = np.linspace(0, score.length, int(np.ceil(score.length * 4)) + 1)
  energy_at = energies[np.searchsorted(starts, quarters, 'right') - 1]
  # A little faster where there is more energy, and slower into the end of every section.
  speed = tempo / 60 * (1 + 0.16 * (energy_at - 0.5))
  ends = np.append(starts[1:], score.length)
  left = ends[np.searchsorted(starts, quarters, 'right') - 1] - quarters
  speed *= np.where(left < 2, 0.9 + 0.05 * left, 1.0)
  seconds = np.concatenate([[0], np.cumsum(np.diff(quarters) / ((speed[1:] + speed[:-1]) / 2))])

  def when(quarter):
    return np.interp(quarter, quarters, seconds)

  strong = {round(quarter, 3): strength for quarter, strength in score.beats}
  programs, played = ENSEMBLES[name], []
  bass = max(note.part for note in score.notes)
  for note in score.notes:
    start = float(when(note.start))
    if start > LONGEST:
      continue
    energy = float(energies[np.searchsorted(starts, note.start, 'right') - 1])
    accent = 8 * strong.get(round(note.start, 3), 0.0) + (6 if note.part == 0 else 0)
    velocity = int(np.clip(34 + 62 * energy + accent + rng.normal(0, 3), 16, 126))
    touch = 0.97 - 0.35 * energy * (rng.random() < 0.5)
    stop = max(start + 0.06, start + (float(when(note.start + note.length)) - start) * touch)
    program = programs[min(note.part, len(programs) - 1)]
    pitch = note.pitch + transposition
    played.append(Played(start, min(stop, LONGEST), pitch, velocity, program, note.part))
    doubled = pitch - 12
    if energy > 0.75 and note.part == bass and doubled >= 28:
      played.append(Played(start, min(stop, LONGEST), doubled, velocity - 8, program, note.part))
  duration = max(note.stop for note in played) + TAIL
  borders = when(starts)
  return played, Truth(
    id=f'{score.id}.{variation}',
    duration=duration,
    composition=composition,
    score=score.id,
    title=score.title,
    composer=score.composer,
    rights=score.rights,
    ensemble=name,
    transposition=transposition,
    tempo=tempo,
    tonic=(score.tonic + transposition) % 12,
    minor=score.minor,
    beats=[(float(when(q)), s) for q, s in score.beats if when(q) <= LONGEST],
    sections=[(float(t), float(e)) for t, e in zip(borders, energies, strict=True) if t <= LONGEST],
    onsets=_onsets(played),
    **_curves(played, duration),
  )


def _sections(score: Score, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """(quarters at which sections begin, their energies): of 2 to 8 bars, each unlike the one before."""
  bars = score.bars or [4.0 * n for n in range(int(score.length // 4) + 1)]
  starts, place = [0.0], 0
  while (place := place + int(rng.integers(2, 9))) < len(bars) - 1:
    if bars[place] > starts[-1]:
      starts.append(bars[place])
  energies = [float(rng.uniform(0.15, 0.95))]
  while len(energies) < len(starts):
    step = float(rng.uniform(0.25, 0.7)) * (1 if rng.random() < 0.5 else -1)
    within = energies[-1] + step
    energies.append(float(np.clip(within if 0 <= within <= 1 else energies[-1] - step, 0.02, 0.98)))
  return np.array(starts), np.array(energies)


def _onsets(played: list[Played]) -> list[tuple[float, float, float]]:
  found: dict[int, list[Played]] = {}
  for note in played:
    found.setdefault(round(note.start * 50), []).append(note)  # what is struck within 20 ms is one attack
  onsets = []
  for _, notes in sorted(found.items()):
    # Powers of what is struck add up; four notes at full velocity count as all there is.
    power = sum((note.velocity / 127) ** 2 for note in notes)
    pitch = sum(note.pitch for note in notes) / len(notes)
    onsets.append((min(note.start for note in notes), float(min(1.0, (power / 4) ** 0.5)), pitch))
  return onsets


def _curves(played: list[Played], duration: float) -> dict[str, Any]:
  """Energy and pitch classes of every step, from what sounds in it."""
  count = int(np.ceil(duration * CURVE_RATE))
  classes, power = np.zeros((count, 12)), np.zeros(count)
  for note in played:
    first, last = int(note.start * CURVE_RATE), min(count, int(note.stop * CURVE_RATE) + 1)
    classes[first:last, note.pitch % 12] += note.velocity
    # What is struck dies away; of winds and strings the mean is taken for the same.
    fading = np.exp(-np.arange(last - first) / CURVE_RATE / 1.5)
    power[first:last] += (note.velocity / 127) ** 2 * fading
  decibels = 10 * np.log10(np.maximum(power, 1e-4))
  low, high = np.percentile(decibels, [10, 97])
  low = float(np.clip(low, high - 30, high - 9))
  energy = np.clip((decibels - low) / (high - low), 0, 1)
  return {'energy': np.round(energy, 4).tolist(), 'pitches': classes.tolist()}


def write_midi(path: pathlib.Path, played: list[Played], duration: float) -> None:
  """Writes a standard MIDI file of 1 ms ticks that ends at `duration`, with one channel a program.

  Raises:
    errors.ConfigError: mido is not installed.
  """
  try:
    import mido  # needed for rendering scores alone
  except ImportError as error:
    raise errors.ConfigError('writing MIDI needs mido; install v2meow-jax with the extra "scores"') from error
  programs = sorted({note.program for note in played})
  # Channel 9 is General MIDI's drums.
  channels = {program: n + (n >= 9) for n, program in enumerate(programs)}
  events: list[tuple[float, int, Any]] = []
  for note in played:
    about: dict[str, Any] = {'channel': channels[note.program], 'note': note.pitch}
    events.append((note.start, 1, mido.Message('note_on', velocity=note.velocity, **about)))
    events.append((note.stop, 0, mido.Message('note_off', velocity=0, **about)))  # before what is struck then
  track = mido.MidiTrack([mido.MetaMessage('set_tempo', tempo=500_000)])
  track += [mido.Message('program_change', channel=c, program=p) for p, c in channels.items()]
  at = 0
  for time, _, message in sorted(events, key=lambda event: event[:2]):
    tick = round(time * 1000)
    track.append(message.copy(time=tick - at))
    at = tick
  track.append(mido.MetaMessage('end_of_track', time=max(0, round(duration * 1000) - at)))
  made = mido.MidiFile(ticks_per_beat=500)
  made.tracks.append(track)
  with files.replaced_when_done(path) as temporary:
    made.save(temporary)
