"""Scores as lists of notes: read by music21, kept as JSON, and grouped into compositions.

Times are in quarter notes from the beginning. What a score says of beats, tempo and key is kept beside the
notes, for whatever is to be true of music that is rendered from it.
"""

import itertools
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from v2meow_jax import errors, files

# Repertoires of music21's corpus for keyboard, strings and small ensembles; tunes of one line are left out.
REPERTOIRES = (
  'bach', 'beethoven', 'chopin', 'corelli', 'handel', 'haydn', 'joplin', 'monteverdi', 'mozart',
  'schumann_clara', 'schumann_robert', 'weber',
)  # fmt: skip
SUFFIXES = ('.mxl', '.xml', '.krn', '.musicxml')
LONGEST = 4000.0  # quarter notes
_THEME = 12  # intervals of the highest part, by which two encodings of a composition are known


class Note(msgspec.Struct, array_like=True, frozen=True):
  """A note: start and length in quarters, MIDI pitch, and the number of its part from the highest down."""

  start: float
  length: float
  pitch: int
  part: int


class Score(msgspec.Struct, frozen=True):
  """What is kept of a score.

  Attributes:
    id: unique, made of the path in the corpus.
    title, composer: as the file says, or from its path.
    rights: what the file says of rights; empty where it says nothing.
    tonic, minor: key that the notes are in, by Krumhansl's profiles: pitch class, and whether it is minor.
    notes: by start.
    beats: (quarter, strength) of every beat; 1 on the first of a bar.
    bars: quarters at which bars begin.
    tempo: quarters a minute at the beginning; 0 where nothing is said.
    length: quarters.
  """

  id: str
  title: str
  composer: str
  rights: str
  tonic: int
  minor: bool
  notes: list[Note]
  beats: list[tuple[float, float]]
  bars: list[float]
  tempo: float
  length: float


def find(repertoires: Iterable[str] = REPERTOIRES) -> list[pathlib.Path]:
  """Files of music21's corpus, in order.

  Raises:
    errors.ConfigError: music21 is not installed, or has no such repertoire.
  """
  folder = _corpus()
  paths = []
  for name in repertoires:
    there = sorted(p for p in (folder / name).rglob('*') if p.suffix in SUFFIXES)
    if not there:
      known = ', '.join(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != '_'))
      raise errors.ConfigError(f'music21 has no scores of {name!r}; it has {known}')
    paths += there
  return paths


def _corpus() -> pathlib.Path:
  try:
    import music21.corpus  # seconds to import, and needed for rendering scores alone
  except ImportError as error:
    raise errors.ConfigError(
      'reading scores needs music21; install v2meow-jax with the extra "scores"'
    ) from error
  return pathlib.Path(music21.corpus.__file__).parent


def identifier(path: pathlib.Path) -> str:
  """A score's id: its path in the corpus with dashes."""
  place = path.relative_to(_corpus()).with_suffix('')
  return re.sub(r'[^A-Za-z0-9_.]+', '-', '-'.join(place.parts))


def read(path: pathlib.Path) -> Score:
  """A score from a file that music21 reads.

  Raises:
    errors.DatasetError: it cannot be read, or there is nothing in it to be played.
  """
  import music21  # see _corpus

  told = f'{path}: music21 cannot read it as a score'
  with errors.translated(errors.DatasetError, told):
    parsed: Any = music21.converter.parse(path)
    return of_stream(parsed, identifier(path))


def of_stream(parsed: Any, name: str) -> Score:
  """What is kept of a music21 stream."""
  parts = list(parsed.parts) or [parsed]
  try:
    parts = [part.expandRepeats() for part in parts]
  except Exception:  # music21 raises many kinds for repeats that do not add up; then they are not played
    parts = list(parsed.parts) or [parsed]
  notes = []
  for number, part in enumerate(parts):
    for element in part.stripTies(matchByPitch=True).flatten().notes:
      length = min(float(element.duration.quarterLength), 16.0)
      if length <= 0 or element.offset > LONGEST:  # grace notes; a movement of which nobody hears the end
        continue
      for pitch in getattr(element, 'pitches', ()):
        if 21 <= pitch.midi <= 108:
          notes.append(Note(round(float(element.offset), 4), round(length, 4), int(pitch.midi), number))
  if len(notes) < 16:
    raise errors.DatasetError(f'{name}: {len(notes)} notes are no piece of music')
  notes.sort(key=lambda n: (n.start, -n.pitch))
  length = max(n.start + n.length for n in notes)
  bars, beats = _beats(parts[0], length)
  key: Any = parsed.analyze('key')
  marks = [m.number for m in parsed.recurse().getElementsByClass('MetronomeMark') if m.number]
  about = parsed.metadata
  return Score(
    id=name,
    title=str((about and about.title) or name),
    composer=str((about and about.composer) or name.split('-')[0]),
    rights=str((about and about.copyright) or ''),
    tonic=int(key.tonic.pitchClass),
    minor=key.mode == 'minor',
    notes=notes,
    beats=beats,
    bars=bars,
    tempo=float(marks[0]) if marks else 0.0,
    length=length,
  )


def _beats(part: Any, length: float) -> tuple[list[float], list[tuple[float, float]]]:
  """Bars and beats; an upbeat's beats are the last of its bar."""
  bars, beats = [], []
  signature: Any = None
  measures = list(part.getElementsByClass('Measure'))
  for number, measure in enumerate(measures):
    signature = measure.timeSignature or signature
    step = float(signature.beatDuration.quarterLength) if signature is not None else 1.0
    start = float(measure.offset)
    end = float(measures[number + 1].offset) if number + 1 < len(measures) else length
    upbeat = not number and measure.paddingLeft
    if not upbeat:
      bars.append(start)
    count = max(1, round((end - start) / step)) if end > start else 0
    beats += [(round(start + n * step, 4), 1.0 if n == 0 and not upbeat else 0.5) for n in range(count)]
  return bars, beats


def cached(path: pathlib.Path, folder: pathlib.Path) -> Score | str:
  """The score of a file, or why there is none; from a folder of those that were read, or read and kept."""
  kept = folder / f'{identifier(path)}.json'
  if kept.is_file():
    with errors.translated(errors.DatasetError, f'{kept}: damaged; delete it'):
      return msgspec.json.decode(kept.read_bytes(), type=Score | str)
  try:
    found: Score | str = read(path)
  except errors.DatasetError as error:
    found = str(error)
  files.write_bytes(kept, msgspec.json.encode(found))
  return found


def theme(score: Score) -> tuple[int, ...] | None:
  """The first intervals of the highest part, which a transposition leaves as they are; None: too short."""
  line = [n.pitch for n in score.notes if n.part == 0]
  intervals = [b - a for a, b in itertools.pairwise(line) if b != a]
  return tuple(intervals[:_THEME]) if len(intervals) >= _THEME else None


def work(score: Score) -> str:
  """The work that a score is of, by its name: movements of one, and numbers of one cantata, go together."""
  parts = score.id.split('-')
  if len(parts) > 2:
    return '-'.join(parts[:2])
  return re.sub(r'\.[0-9a-z.]*$', '', score.id)


def compositions(scores: Iterable[Score]) -> dict[str, str]:
  """By a score's id the composition that it is of: one work, or one theme, whoever encoded or set it.

  A corpus holds one chorale in several encodings and harmonisations: if one were trained on and another
  held out, the melody would be known.
  """
  groups: dict[str, str] = {}

  def root(name: str) -> str:
    while groups.setdefault(name, name) != name:
      groups[name] = groups[groups[name]]
      name = groups[name]
    return name

  found = list(scores)
  for score in found:
    links = [f'work {work(score)}']
    if (begins := theme(score)) is not None:
      links.append(f'theme {begins}')
    for link in links:
      one, other = sorted((root(score.id), root(link)))
      groups[other] = one
  roots: dict[str, str] = {}
  for score in sorted(found, key=lambda s: s.id):
    roots.setdefault(root(score.id), score.id)  # named by the first of its scores
  return {score.id: roots[root(score.id)] for score in found}
