"""Metrics of all ways side by side, and which of them a listener should not believe."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from v2meow_jax.evaluation import bootstrap, features, pairs, sets
from v2meow_jax.evaluation.bootstrap import Estimate
from v2meow_jax.evaluation.measuring import Measured

EASY = ('silence', 'noise', 'unigram')  # what no metric should rank with the truth


@dataclasses.dataclass(frozen=True)
class Card:
  """What a metric is.

  Attributes:
    unit: of its values.
    better: `lower`, `higher`, or empty: it describes, and neither way is better.
    says: what it says, and what it cannot.
  """

  unit: str
  better: str
  says: str


SETS = {
  'frechet': Card('', 'lower', 'Frechet distance to the truth of the other half; grows as sets shrink'),
  'mmd': Card('', 'lower', 'kernel distance (cubic polynomial), unbiased, may be below zero; same halves'),
  'density': Card('', 'higher', 'how deep in the truth the pieces lie; above 1 where all lie in its middle'),
  'coverage': Card('share', 'higher', 'of the truth near which something lies: variety'),
}  # fmt: skip
CARDS = {name: Card(unit, '', says) for name, (unit, says) in features.FIGURES.items()}
CARDS |= {name: Card(*told) for name, told in (pairs.AGREEMENT | pairs.FOLLOWING).items()}


def figures(rows: Sequence[Measured], names: Sequence[str]) -> dict[str, Estimate]:
  """Mean of each of `features.FIGURES` over pieces."""
  return {
    name: bootstrap.mean(np.array([row.heard.figures[name] for row in rows]), names, unit=unit)
    for name, (unit, _) in features.FIGURES.items()
  }


def ranges(made: Sequence[Measured], truth: Sequence[Measured]) -> dict[str, dict[str, float]]:
  """By name of `features.FIGURES`: the truth's 5th and 95th percentile, `low` and `high`, and who is between.

  `inside` is the share of `made`, `truth` the share of the truth itself, which is below nine tenths where
  pieces are few. What is measured of no piece of either is left out.
  """
  found = {}
  for name in features.FIGURES:
    ours, theirs = (np.array([row.heard.figures[name] for row in rows]) for rows in (made, truth))
    ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    if len(ours) and len(theirs):
      low, high = np.percentile(theirs, (5, 95)).tolist()
      inside, own = (float(np.mean((low <= rows) & (rows <= high))) for rows in (ours, theirs))
      found[name] = {'low': low, 'high': high, 'inside': inside, 'truth': own}
  return found


def mean_of(values: Sequence[Mapping[str, float]], about: Mapping[str, Any]) -> dict[str, Estimate]:
  """Means over pieces of what was found of each."""
  return {
    name: bootstrap.mean(np.array([row[name] for row in values]), unit=unit, better=better)
    for name, (unit, better, _) in about.items()
  }


def normalised(vectors: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Vectors in units of the reference's deviation by dimension: a filter bank's have units of their own."""
  joined = np.concatenate(reference)
  middle, scale = joined.mean(0), joined.std(0) + 1e-3
  return [((row - middle) / scale).astype(np.float64) for row in vectors]


def distances(ours: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[str, Estimate]:
  """Each of `SETS` by halves: pieces of one half against the truth of the other, averaged over both.

  So no row has its own piece in the reference, the truth's row is what two samples of music are apart, and
  all rows compare, being of one size.

  Args:
    ours, truth: vectors of each piece [windows, dimensions], of the same pieces.
  """
  halves = [np.arange(len(ours)) % 2 == part for part in (0, 1)]

  def of(function: Callable[[np.ndarray, np.ndarray], float], kept: np.ndarray) -> float:
    found = []
    for half in halves:
      chosen = [ours[n] for n in kept if half[n]]
      others = [truth[n] for n in kept if not half[n]]
      if not chosen or not others or min(sum(map(len, chosen)), sum(map(len, others))) < 3:
        return float('nan')
      found.append(function(np.concatenate(chosen), np.concatenate(others)))
    return float(np.mean(found))

  functions: dict[str, Callable] = {
    'frechet': sets.frechet,
    'mmd': sets.mmd,
    'density': lambda a, b: sets.density_and_coverage(a, b)[0],
    'coverage': lambda a, b: sets.density_and_coverage(a, b)[1],
  }
  # Left out are pairs of pieces, one of each half, so that halves stay of one size.
  return {
    name: bootstrap.jackknife(
      lambda kept, function=function: of(function, kept),
      [n // 2 for n in range(len(ours))],
      unit=SETS[name].unit,
      better=SETS[name].better,
    )
    for name, function in functions.items()
  }


def flag(rows: Mapping[str, Estimate], better: str) -> str:
  """What is wrong with a metric by its controls; empty where nothing is."""
  if not better or 'truth' not in rows or not np.isfinite(rows['truth'].value):
    return ''
  sign = 1 if better == 'higher' else -1
  truth = sign * rows['truth'].value

  def reaches(way: str) -> bool:
    return way in rows and np.isfinite(rows[way].value) and sign * rows[way].value >= truth

  as_good = [way for way in EASY if reaches(way)]
  if as_good:
    return f'{" and ".join(as_good)} {"is" if len(as_good) == 1 else "are"} as good as the truth'
  if 'shuffled' in rows:
    edges = rows['shuffled'].interval
    best = max(sign * edge for edge in edges) if np.isfinite(edges).all() else sign * rows['shuffled'].value
    if best >= truth:
      return "another piece's truth is as good, within its interval"
  return ''


def table(
  found: Mapping[str, Mapping[str, Estimate]], cards: Mapping[str, Card], ways: Sequence[str]
) -> list[dict[str, Any]]:
  """Rows of a table as JSON: `metric`, `unit`, `better`, `says`, `flag`, and estimates by way."""
  made = []
  for name, rows in found.items():
    card = cards[name.split('/')[-1]]
    told = {way: rows[way].told() for way in ways if way in rows}
    about = {'metric': name, 'unit': card.unit, 'better': card.better, 'says': card.says}
    made.append(about | {'flag': flag(rows, card.better), 'ways': told})
  return made
