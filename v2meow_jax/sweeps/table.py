"""The table of a sweep as CSV, Markdown and LaTeX, and what it says of a number."""

import csv
import io
import math
import pathlib

from v2meow_jax import files
from v2meow_jax.sweeps.results import Results, Row
from v2meow_jax.sweeps.statistics import Estimate


def write(folder: pathlib.Path, results: Results) -> None:
  """Writes `table.csv`, `table.md` and `table.tex`."""
  files.write_text(folder / 'table.csv', as_csv(results))
  files.write_text(folder / 'table.md', markdown(results))
  files.write_text(folder / 'table.tex', latex(results))


def number(value: float) -> str:
  """Four significant digits."""
  return f'{value:.4g}' if math.isfinite(value) else 'not finite'


def estimate(found: Estimate | None, sign: bool = False, apart: str = '±') -> str:
  """`2.19 ± 0.03`, of the half width two digits and the value as many; or `2.19 (2.17 to 2.25)`."""
  if found is None:
    return ''
  plus = '+' if sign and found.value > 0 else ''
  if found.low is None or found.high is None:
    return plus + number(found.value)
  half = (found.high - found.low) / 2
  if abs((found.high + found.low) / 2 - found.value) > 0.05 * half:
    return f'{plus}{number(found.value)} ({number(found.low)} to {number(found.high)})'
  digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 4
  return f'{plus}{found.value:.{digits}f} {apart} {half:.{digits}f}'


def duration(seconds: float) -> str:
  """`3 h 20 min`, `4 min 10 s` or `12 s`."""
  whole = round(seconds)
  if whole < 60:
    return f'{whole} s'
  if whole < 3600:
    return f'{whole // 60} min {whole % 60} s'
  return f'{whole // 3600} h {whole % 3600 // 60} min'


def status(row: Row) -> str:
  """How far a combination is."""
  if row.failures:
    return 'failed'
  if row.stopped_at is not None:
    return f'left at step {row.stopped_at}'
  return 'done' if row.done == row.trials else f'{row.done} of {row.trials}'


def short(metrics: list[str]) -> dict[str, str]:
  """Metric -> its name without what all have in common at the end or at the beginning of their path."""
  parts = [name.split('/') for name in metrics]
  front = 0
  while (
    len(parts) > 1 and len({tuple(p[: front + 1]) for p in parts}) == 1 and min(map(len, parts)) > front + 1
  ):
    front += 1
  return {name: '/'.join(p[front:]) for name, p in zip(metrics, parts, strict=True)}


def rows(results: Results, apart: str = '±') -> tuple[list[str], list[list[str]]]:
  """(heads, cells) of the table that people read."""
  axes = list(results.rows[0].labels) if results.rows else []
  compared = any(cell.difference for row in results.rows for cell in row.cells.values())
  names = short(list(results.metrics))
  curved = [metric for metric in results.metrics if any(row.curves.get(metric) for row in results.rows)]
  heads = [*axes, 'status']
  for metric, more in results.metrics.items():
    heads.append(f'{names[metric]} ({"more" if more else "less"} is better)')
    heads += ['best'] * (metric in curved) + ['from baseline'] * compared
  heads += ['parameters', 'steps', 'FLOPs', 'time a seed']
  body = []
  for row in results.rows:
    cells = [*row.labels.values(), ('baseline, ' if row.baseline and compared else '') + status(row)]
    for metric in results.metrics:
      cell = row.cells.get(metric)
      cells.append(estimate(cell.final, apart=apart) if cell else '')
      cells += [number(cell.best.value) if cell else ''] * (metric in curved)
      cells += [estimate(cell.difference, True, apart) if cell else ''] * compared
    cells.append(f'{row.parameters / 1e6:.2f} million' if row.parameters else '')
    cells += [
      str(row.steps) if row.steps else '',
      f'{row.flops:.2e}' if row.flops else '',
      duration(row.seconds),
    ]
    body.append(cells)
  return heads, body


def markdown(results: Results) -> str:
  """The table in Markdown, with a line on its intervals."""
  heads, body = rows(results)
  lines = [heads, ['---'] * len(heads), *body]
  told = ''.join('| ' + ' | '.join(cell.replace('|', '\\|') for cell in line) + ' |\n' for line in lines)
  return f'{told}\n{note(results)}\n'


def note(results: Results) -> str:
  """What the intervals are."""
  count = len(results.seeds)
  if count < 2:
    return 'One seed: an interval, where there is one, is that of the report. Differences have none.'
  return (
    f"Means over {count} seeds; intervals are Student's t at 95%, of differences over those of each seed "
    '(seeds are paired).'
  )


_TEX = str.maketrans(
  {c: f'\\{c}' for c in '&%$#_{}'} | {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}'}
)


def latex(results: Results) -> str:
  """The table for a paper; needs the package booktabs."""
  heads, body = rows(results, 'PLUSMINUS')

  def line(cells: list[str]) -> str:
    return ' & '.join(cell.translate(_TEX).replace('PLUSMINUS', r'$\pm$') for cell in cells) + r' \\'

  form = 'l' * len(results.rows[0].labels if results.rows else ()) + 'l' + 'r' * len(heads)
  return '\n'.join([
    f'% {note(results)}',
    rf'\begin{{tabular}}{{{form[: len(heads)]}}}', r'\toprule', line(heads), r'\midrule',
    *map(line, body), r'\bottomrule', r'\end{tabular}', '',
  ])  # fmt: skip


def as_csv(results: Results) -> str:
  """One line a combination, one number a column."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  axes = list(results.rows[0].labels) if results.rows else []
  parts = ('final', 'low', 'high', 'best', 'difference', 'difference_low', 'difference_high')
  fields = [f'{metric}:{part}' for metric in results.metrics for part in parts]
  writer.writerow(
    [*axes, 'baseline', 'status', 'seeds', *fields, 'parameters', 'steps', 'tokens', 'flops', 'seconds']
  )
  for row in results.rows:
    numbers: list[object] = []
    for metric in results.metrics:
      cell = row.cells.get(metric)
      if cell is None:
        numbers += [''] * len(parts)
        continue
      other = cell.difference
      numbers += [cell.final.value, cell.final.low, cell.final.high, cell.best.value]
      numbers += [other.value, other.low, other.high] if other else [None] * 3
    cost = (row.parameters, row.steps, row.tokens, row.flops, round(row.seconds, 1))
    writer.writerow([*row.labels.values(), row.baseline, status(row), row.trials, *numbers, *cost])
  return out.getvalue()
