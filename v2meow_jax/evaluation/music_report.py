"""Music that a bundle, or anything else, made: measured beside controls, against its truth and its video."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from v2meow_jax import errors, terminal
from v2meow_jax.evaluation import bootstrap, controls, likeness, pairs, provenance, sets, tables
from v2meow_jax.evaluation.bootstrap import Estimate
from v2meow_jax.evaluation.measuring import MOTION, Measured, Measuring, load, run
from v2meow_jax.evaluation.subjects import Piece
from v2meow_jax.evaluation.tables import CARDS, SETS, Card

TOKENS = Card(
  'nats', 'lower', 'Jensen-Shannon divergence of how often tokens occur from the truth; nothing of order'
)
OTHER_VIDEO = 'made, another video'
OTHER_PROMPT = 'made, another prompt'
FIT = 0.8  # R^2 below which an extrapolation is not to be used
MANY = 1e6  # pieces beyond which it is not told how many would show a difference


def measure(
  pieces: Sequence[Piece],
  reference: Sequence[Piece],
  measuring: Measuring,
  *,
  about: Mapping[str, Any],
  extra: Mapping[str, Sequence[Piece]] | None = None,
  shard: tuple[int, int] = (0, 1),
  progress: terminal.Progress | None = None,
) -> dict[str, Any]:
  """Measures pieces; see `subjects` for what they are.

  Args:
    pieces: what is measured, and their truth.
    reference: more truth, of which nothing was made.
    measuring: measures and keeps.
    about: for the provenance.
    extra: other music for the same pieces, by way, such as stages fed with truth.
    shard: see `measuring.run`; of more than one, only figures are kept and the report is empty.
    progress: that is told.

  Returns:
    The report, JSON values: `provenance`, `metrics` (every figure of what is measured by name, of controls
    by `WAY/NAME`, each with `value`, `interval` and `count`), `table`, `notes`, `failures`.

  Raises:
    errors.DatasetError: no piece could be measured.
  """
  began, failures = time.perf_counter(), {}
  shown = progress or terminal.Progress(quiet=True)
  kept = run(pieces, measuring, shard, failures, lambda n, total: shown.update('measured', n, total))
  rest = run(reference, measuring, shard, failures, lambda n, total: shown.update('reference', n, total))
  others = {
    way: run(made, measuring, shard, failures, lambda n, total, way=way: shown.update(way, n, total))
    for way, made in (extra or {}).items()
  }
  if shard[1] > 1:
    return {'failures': failures}
  if not kept:
    first = next(iter(failures.values()), 'there is none')
    raise errors.DatasetError(f'no piece could be measured: {first}')
  report = _report(kept, rest, others, measuring)
  report['provenance'] = provenance.describe(
    {**about, 'pieces': len(kept), 'seconds_a_piece': measuring.tools.seconds, **measuring.tools.about()}
  )
  report['failures'] = failures
  report['provenance']['seconds'] = round(time.perf_counter() - began, 1)
  return report


def _report(
  kept: Sequence[Piece], rest: Sequence[Piece], others: Mapping[str, Sequence[Piece]], measuring: Measuring
) -> dict[str, Any]:
  notes: list[str] = []
  paired = [piece for piece in kept if piece.truth is not None]
  truth = [*paired, *rest]
  made = {piece.name: measuring.made(piece) for piece in kept}
  rows: dict[str, list[Measured]] = {'made': list(made.values())}
  counts = _counts(truth, measuring)
  for way in measuring.tools.ways() if truth else ():
    rows[way] = [measuring.control(piece, way, counts) for piece in truth]
  names = {way: [piece.name for piece in (kept if way == 'made' else truth)] for way in rows}
  for way, pieces in others.items():
    rows[way] = [measuring.made(piece) for piece in pieces]
    names[way] = [piece.name for piece in pieces]
  found: dict[str, dict[str, Estimate]] = {}
  for way in rows:
    for name, estimate in tables.figures(rows[way], names[way]).items():
      found.setdefault(name, {})[way] = estimate
  if len(truth) >= 4:
    _add_sets(found, rows, names, notes)
    _add_tokens(found, rows, names)
  else:
    notes.append(f'{len(truth)} pieces of truth are too few for distances of sets; four are needed')
  _add_texts(found, kept, made, measuring)
  if paired:
    _add_pairs(found, paired, rows, names, others, measuring, notes)
  ways = [
    way
    for way in (*controls.WAYS, OTHER_VIDEO, OTHER_PROMPT, *others)
    if any(way in row for row in found.values())
  ]
  cards = CARDS | SETS | {'token_divergence': TOKENS}
  cards |= {name: Card(*told) for name, told in likeness.LIKENESS.items()}
  table = tables.table(found, cards, ways)
  ranges = tables.ranges(rows['made'], rows['truth']) if len(truth) >= 4 else {}
  for row in table:
    if row['metric'] in ranges:
      row['range'] = ranges[row['metric']]
  metrics = {name: row['made'].told() for name, row in found.items() if 'made' in row}
  for name, row in found.items():
    metrics |= {f'{way}/{name}': row[way].told() for way in ways if way in row and way != 'made'}
  clips = {piece.name: _values(piece, made[piece.name], measuring) for piece in kept}
  report = {'subject': 'music', 'ways': ways, 'table': table, 'metrics': metrics, 'pieces': clips}
  return report | {'notes': notes}


def _values(piece: Piece, measured: Measured, measuring: Measuring) -> dict[str, Any]:
  """Figures of one piece, by which two reports are compared."""
  found = dict(measured.heard.figures)
  if piece.truth is not None:
    found |= pairs.agreement(measured.heard, measuring.truth(piece).heard)
  pictures = measuring.pictures(piece)
  if pictures is not None:
    found |= pairs.following(measured.heard, pictures, float(MOTION.rate))
  return {'track': piece.name, 'values': {k: float(v) if np.isfinite(v) else None for k, v in found.items()}}


def _counts(truth: Sequence[Piece], measuring: Measuring) -> np.ndarray | None:
  """How often the codec's tokens occur in all truth, [levels, codes]."""
  codec = measuring.tools.codec
  if codec is None or not truth:
    return None
  total = np.zeros((codec.stream.width, codec.stream.codes))
  for piece in truth:
    total += measuring.truth(piece).counts[codec.stream.name]
  return total


def _add_sets(
  found: dict[str, dict[str, Estimate]],
  rows: Mapping[str, Sequence[Measured]],
  names: Mapping[str, Sequence[str]],
  notes: list[str],
) -> None:
  """Distances by embedder, of ways that have the truth's pieces, and of what was made to all truth."""
  for embedder in rows['truth'][0].embeddings:
    truth = [row.embeddings[embedder] for row in rows['truth']]
    where = dict(zip(names['truth'], tables.normalised(truth, truth), strict=True))
    dimensions, windows = truth[0].shape[1], sum(map(len, truth))
    if windows // 2 < dimensions:
      notes.append(
        f'{embedder}: {windows // 2} windows a half are fewer than its {dimensions} dimensions: covariances '
        'are singular and Frechet distances too great; compare rows, not figures of other sets'
      )
    for way, measured in rows.items():
      vectors = tables.normalised([row.embeddings[embedder] for row in measured], truth)
      shared = [n for n, name in enumerate(names[way]) if name in where]
      if way == 'made':
        _add_whole(found, embedder, vectors, list(where.values()), notes)
      if len(shared) < 4:
        continue
      told = tables.distances([vectors[n] for n in shared], [where[names[way][n]] for n in shared])
      for name, estimate in told.items():
        found.setdefault(f'{embedder}/{name}', {})[way] = estimate


def _add_whole(
  found, embedder: str, ours: list[np.ndarray], theirs: list[np.ndarray], notes: list[str]
) -> None:
  """FAD-infinity of everything that was made against all truth, as papers have it."""
  one, other = np.concatenate(ours), np.concatenate(theirs)
  sets.check(one, f'what is measured, {embedder}')
  line = sets.extrapolated_frechet(one, other)
  notes.append(
    f'{embedder}: Frechet distance of all {len(one)} windows to all {len(other)} of the truth '
    f'{line.distances[-1]:.3f}; extrapolated to endless ones (FAD-infinity) {line.value:.3f}, by a line over '
    f'1/n through {len(line.sizes)} sizes from {line.sizes[0]}, R^2 {line.fit:.2f}'
    + ('' if line.fit >= FIT else ': no line, so the extrapolation says nothing')
  )


def _add_tokens(found, rows: Mapping[str, Sequence[Measured]], names: Mapping[str, Sequence[str]]) -> None:
  """Divergence of tokens, by the same halves as distances."""
  where = dict(zip(names['truth'], rows['truth'], strict=True))
  for stream in rows['truth'][0].counts:
    for way, measured in rows.items():
      shared = [n for n, name in enumerate(names[way]) if name in where]
      if len(shared) < 4:
        continue
      ours = [measured[n].counts[stream] for n in shared]
      theirs = [where[names[way][n]].counts[stream] for n in shared]

      def of(kept: np.ndarray, ours=ours, theirs=theirs) -> float:
        halves = []
        for part in (0, 1):
          one, other = [ours[n] for n in kept if n % 2 == part], [theirs[n] for n in kept if n % 2 != part]
          if not one or not other:
            return float('nan')
          pair = zip(np.sum(one, 0), np.sum(other, 0), strict=True)
          halves.append(np.mean([sets.token_divergence(a, b) for a, b in pair]))
        return float(np.mean(halves))

      blocks = [n // 2 for n in range(len(shared))]
      estimate = bootstrap.jackknife(of, blocks, unit=TOKENS.unit, better=TOKENS.better)
      found.setdefault(f'{stream}/token_divergence', {})[way] = estimate


def _add_pairs(
  found: dict[str, dict[str, Estimate]],
  paired: Sequence[Piece],
  rows: Mapping[str, Sequence[Measured]],
  names: Mapping[str, Sequence[str]],
  others: Mapping[str, Sequence[Piece]],
  measuring: Measuring,
  notes: list[str],
) -> None:
  """Agreement with the truth and with the video, of every way and of exchanged pairs."""
  by_way = {way: dict(zip(names[way], measured, strict=True)) for way, measured in rows.items()}
  order = [piece.name for piece in paired]
  exchanged = controls.derangement(order, measuring.tools.seed)
  by_way['shuffled'] = {
    name: by_way['truth'][order[other]]
    for name, other in zip(order, exchanged, strict=True)
    if other is not None
  }
  if not by_way['shuffled']:
    del by_way['shuffled']
    notes.append('a single piece has no other: nothing is exchanged')
  for way, measured in by_way.items():
    values = [
      pairs.agreement(measured[name].heard, by_way['truth'][name].heard) for name in order if name in measured
    ]
    for name, estimate in tables.mean_of(values, pairs.AGREEMENT).items():
      found.setdefault(name, {})[way] = estimate
    alike = [likeness.to_truth(measured[name], by_way['truth'][name]) for name in order if name in measured]
    for name, estimate in tables.mean_of(alike, likeness.about(list(alike[0]) if alike else [])).items():
      found.setdefault(name, {})[way] = estimate
  pictures = {piece.name: measuring.pictures(piece) for piece in paired}
  films = [name for name in order if pictures[name] is not None]
  if not films:
    return
  rate = float(MOTION.rate)

  def following(way: str, video: Mapping[str, str]) -> list[dict[str, float]]:
    return [
      pairs.following(by_way[way][name].heard, pictures[video[name]], rate)  # type: ignore[arg-type]
      for name in films
      if name in by_way[way] and name in video
    ]

  own = {name: name for name in films}
  for way in by_way:
    for name, estimate in tables.mean_of(following(way, own), pairs.FOLLOWING).items():
      found.setdefault(name, {})[way] = estimate
  turned = controls.derangement(films, measuring.tools.seed)
  other = {name: films[n] for name, n in zip(films, turned, strict=True) if n is not None}
  if other:
    for name, estimate in tables.mean_of(following('made', other), pairs.FOLLOWING).items():
      found.setdefault(name, {})[OTHER_VIDEO] = estimate
    _note_following(following('made', {k: k for k in other}), following('made', other), notes)


def _add_texts(
  found: dict[str, dict[str, Estimate]],
  kept: Sequence[Piece],
  made: Mapping[str, Measured],
  measuring: Measuring,
) -> None:
  """How alike what was made is to its prompt and, as a control, to another piece's."""
  texts = {piece.name: measuring.texts(piece.prompt) for piece in kept if piece.prompt}
  prompts = {piece.name: piece.prompt for piece in kept}
  names = list(texts)
  own = {name: name for name in names}
  turned = controls.derangement(names, measuring.tools.seed)
  other = {name: names[n] for name, n in zip(names, turned, strict=True) if n is not None}
  other = {name: partner for name, partner in other.items() if prompts[partner] != prompts[name]}
  for way, whose in (('made', own), (OTHER_PROMPT, other)):
    values = [likeness.to_text(made[name], texts[partner]) for name, partner in whose.items()]
    if values:
      for name, estimate in tables.mean_of(values, likeness.about(list(values[0]))).items():
        found.setdefault(name, {})[way] = estimate


def _note_following(own: list[dict[str, float]], other: list[dict[str, float]], notes: list[str]) -> None:
  """Says whether what was made follows its own video more than another: the paired difference."""
  for name in ('motion_energy', 'brightness', 'cut_to_beat'):
    difference = np.array([a[name] - b[name] for a, b in zip(own, other, strict=True)])
    told = bootstrap.mean(difference)
    if not told.count:
      continue
    low, high = told.interval
    sure = 'its own more' if low > 0 else 'another more' if high < 0 else 'neither more'
    count = bootstrap.needed(difference[np.isfinite(difference)])
    more = f'; {count:.0f} pieces would show such a difference' if count < MANY else ''
    notes.append(
      f'{name} under its own video less under another: {told.value:.3f} [{low:.3f}, {high:.3f}], {sure}{more}'
    )


def tell(report: dict[str, Any]) -> list[str]:
  """Lines for a person."""
  lines = []
  ways = report['ways']
  width = max(len(row['metric']) for row in report['table']) + 2
  lines.append(' ' * width + ''.join(f'{way[:12]:>14}' for way in ways))
  for row in report['table']:
    values = [row['ways'].get(way, {}).get('value') for way in ways]
    cells = ''.join(f'{"-" if value is None else format(value, ".3f"):>14}' for value in values)
    lines.append(f'{row["metric"]:<{width}}{cells}' + (f'  ! {row["flag"]}' if row['flag'] else ''))
  for row in report['table']:
    if 'range' in row:
      low, high, inside, own = (row['range'][key] for key in ('low', 'high', 'inside', 'truth'))
      told = (
        f"within the truth's 5-95 %, {low:.3g} .. {high:.3g}: {inside:.0%} of ours, {own:.0%} of the truth"
      )
      lines.append(f'{row["metric"]}: {told}')
  return lines + report['notes']


@dataclasses.dataclass(frozen=True)
class Example:
  """A piece to be heard on the page."""

  name: str
  sounds: dict[str, tuple[np.ndarray, int]]


def examples(
  pieces: Sequence[Piece],
  measuring: Measuring,
  count: int,
  seconds: float,
  others: Mapping[str, Sequence[Piece]],
) -> list[Example]:
  """Sound of a few pieces and their controls, for the page."""
  chosen = [
    pieces[int(n)] for n in np.unique(np.linspace(0, len(pieces) - 1, min(count, len(pieces))).round())
  ]
  truth = [piece for piece in pieces if piece.truth is not None]
  counts = _counts(truth, measuring)
  made = []
  for piece in chosen:
    sounds = {'made': load(piece.made, min(seconds, measuring.tools.seconds))}
    if piece.truth is not None:
      for way in measuring.tools.ways():
        if way != 'silence':
          sound, rate = measuring.sound(piece, way, counts)
          sounds[way] = sound[: round(seconds * rate)], rate
    for way, more in others.items():
      for other in more:
        if other.name == piece.name:
          sounds[way] = load(other.made, min(seconds, measuring.tools.seconds))
    made.append(Example(piece.name, sounds))
  return made
