"""Two reports side by side, paired by what both measured."""

import pathlib
from typing import Any

import msgspec
import numpy as np

from v2meow_jax import errors
from v2meow_jax.evaluation import bootstrap


class _Piece(msgspec.Struct):
  track: str
  values: dict[str, float | None]


class _Report(msgspec.Struct):
  subject: str
  pieces: dict[str, _Piece]
  metrics: dict[str, dict[str, Any]]
  provenance: dict[str, Any]
  ways: list[str] = []


def read(path: pathlib.Path) -> _Report:
  """A report's JSON, or that in the folder of a report.

  Raises:
    errors.DatasetError: it is missing or no report.
  """
  file = path / 'report.json' if path.is_dir() else path
  if not file.is_file():
    raise errors.DatasetError(f'{file}: there is no report; v2meow evaluate --out writes one')
  with errors.translated(errors.DatasetError, f'{file}: not a report of v2meow evaluate'):
    return msgspec.json.decode(file.read_bytes(), type=_Report)


def compare(a: pathlib.Path, b: pathlib.Path) -> dict[str, Any]:
  """Differences B - A of what both measured on the same pieces.

  Returns:
    `differences`, by metric: an `Estimate.told` drawn by track, `a` and `b`, the means over what is paired,
    and `needed`, tracks with which a difference of this size is seen four times of five; `unpaired`,
    figures of whole sets, for which there is no pair; `notes`.

  Raises:
    errors.DatasetError: nothing was measured in both.
  """
  one, other = read(a), read(b)
  if one.subject != other.subject:
    raise errors.DatasetError(
      f'{a} is a report on {one.subject}, {b} on {other.subject}; compare like with like'
    )
  shared = [name for name in one.pieces if name in other.pieces]
  if not shared:
    raise errors.DatasetError(f'{a} and {b}: no piece was measured in both, so that nothing can be paired')
  notes = []
  for key in ('dataset', 'seed', 'shift', 'dtype', 'seconds_a_piece', 'features'):
    if one.provenance.get(key) != other.provenance.get(key):
      notes.append(f'{key} differs: {one.provenance.get(key)} and {other.provenance.get(key)}')
  left = len(one.pieces) + len(other.pieces) - 2 * len(shared)
  if left:
    notes.append(f'{left} pieces are in one report alone and are left out')
  names = list(dict.fromkeys(name for piece in shared for name in one.pieces[piece].values))
  differences = {name: _difference(one, other, shared, name) for name in names}
  differences = {name: told for name, told in differences.items() if told['count']}
  unpaired = {
    name: {'a': value, 'b': other.metrics[name]}
    for name, value in one.metrics.items()
    if name in other.metrics
    and name not in differences
    and '/' in name
    # The truth and the controls are not what is compared.
    and name.split('/')[0] not in one.ways
  }
  return {
    'subject': 'comparison',
    'a': str(a),
    'b': str(b),
    'provenance': {'a': one.provenance, 'b': other.provenance},
    'paired': len(shared),
    'differences': differences,
    'unpaired': unpaired,
    'notes': notes,
  }


def _difference(one: _Report, other: _Report, shared: list[str], name: str) -> dict[str, Any]:
  rows = [(one.pieces[piece].values.get(name), other.pieces[piece].values.get(name)) for piece in shared]
  both = [
    (float(x), float(y), one.pieces[piece].track)
    for (x, y), piece in zip(rows, shared, strict=True)
    if x is not None and y is not None
  ]
  a, b = np.array([row[0] for row in both]), np.array([row[1] for row in both])
  tracks = [row[2] for row in both]
  about = one.metrics.get(name, {})
  told = bootstrap.mean(b - a, tracks, unit=about.get('unit', ''), better=about.get('better', '')).told()
  by_track: dict[str, list[float]] = {}
  for track, value in zip(tracks, b - a, strict=True):
    by_track.setdefault(track, []).append(float(value))
  count = bootstrap.needed(np.array([np.mean(values) for values in by_track.values()]))
  means = {'a': float(a.mean()), 'b': float(b.mean())} if both else {'a': None, 'b': None}
  return told | means | {'needed': int(count) if np.isfinite(count) else None}


def verdict(told: dict[str, Any]) -> str:
  """What a difference says: which is better, or that it is not seen."""
  low, high = told['interval']
  if low is None or low <= 0 <= high:
    return 'not seen'
  better = told.get('better', '')
  if not better:
    return 'different'
  return 'B is better' if (told['value'] > 0) == (better == 'higher') else 'A is better'


def tell(report: dict[str, Any]) -> list[str]:
  """Lines for a person."""
  lines = [f'{report["paired"]} pieces paired; difference B - A with its 95% interval']
  for name, told in report['differences'].items():
    low, high = told['interval']
    edges = '' if low is None else f' [{low:.4f}, {high:.4f}]'
    needed = '' if told['needed'] is None else f'; such a one needs {told["needed"]} tracks'
    lines.append(
      f'{name:<24}A {told["a"]:.4f}  B {told["b"]:.4f}  {told["value"]:+.4f}{edges}  {verdict(told)}{needed}'
    )
  return lines + report['notes']
