"""The page of a sweep: one HTML file that needs nothing beside it, live while the sweep runs."""

import html
import pathlib

from v2meow_jax import files
from v2meow_jax.sweeps import curves, table
from v2meow_jax.sweeps.results import Results, Row
from v2meow_jax.sweeps.statistics import Estimate

REFRESH_SECONDS = 10

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5em auto; max-width: 75em; padding: 0 1em }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3em .8em; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap }
th { vertical-align: bottom; white-space: normal; min-width: 4em }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas }
tr.base td { font-weight: 600 }
.better { color: #1a7f37 } .worse { color: #c0392b }
small, .soft { color: #777 }
.failed { color: #c0392b; overflow-wrap: anywhere }
li { overflow-wrap: anywhere }
span.key { white-space: nowrap }
i.dot { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .45em }
svg { width: 100%; max-width: 60em; height: auto; font: 12px system-ui, sans-serif; fill: currentColor }
svg .grid { stroke: #8884 }
.bar { height: .5em; background: #8883; border-radius: .25em; overflow: hidden; max-width: 40em }
.bar b { display: block; height: 100%; background: #1f77b4 }
@media (max-width: 40em) {
  body { font-size: 14px; margin-top: .5em } th, td { padding: .25em .5em }
  th:first-child, td:first-child { white-space: normal; max-width: 38vw }
  td:first-child .key { white-space: normal }
  th { overflow-wrap: anywhere; max-width: 9em } svg { font-size: 22px }
}
"""


def write(path: pathlib.Path, results: Results) -> None:
  """Writes the page."""
  files.write_text(path, page(results))


def page(results: Results) -> str:
  """The page as text."""
  told = html.escape
  live = results.running is not None
  refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if live else ''
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<title>{told(results.title)}</title><style>{_STYLE}</style></head><body>
<h1>{told(results.title)}</h1>
{_progress(results)}
<div class="scroll">{_table(results)}</div>
<p><small>{told(table.note(results))} A difference is coloured where its interval leaves out zero.</small></p>
{_failures(results)}
{_pictures(results)}
</body></html>
"""


def _progress(results: Results) -> str:
  total, done = sum(results.states.values()), results.states.get('done', 0)
  told = ', '.join(f'{count} {state}' for state, count in sorted(results.states.items()))
  if results.running is None:
    return f'<p class="soft">{total} pieces of work: {html.escape(told)}.</p>'
  now = ''.join(f'<li>{html.escape(name)}</li>' for name in results.running)
  share = 100 * done / max(total, 1)
  return (
    f'<p>{done} of {total} pieces of work are done ({html.escape(told)}).</p>'
    f'<div class="bar"><b style="width:{share:.1f}%"></b></div><ul class="soft">{now}</ul>'
  )


def _table(results: Results) -> str:
  compared = any(cell.difference for row in results.rows for cell in row.cells.values())
  names = table.short(list(results.metrics))
  curved = {metric for metric in results.metrics if any(row.curves.get(metric) for row in results.rows)}
  heads = ['<th>trial</th>']
  for metric, more in results.metrics.items():
    arrow = '↑' if more else '↓'
    heads.append(f'<th title="{html.escape(metric)}">{html.escape(names[metric])} {arrow}</th>')
    heads += ['<th>best</th>'] * (metric in curved) + ['<th>from the baseline</th>'] * compared
  heads += ['<th>parameters</th>', '<th>steps</th>', '<th>FLOPs</th>', '<th>time a seed</th>']
  lines = []
  for number, row in enumerate(results.rows):
    cells = [f'<td>{_name(number, row, compared)}</td>']
    for metric, more in results.metrics.items():
      cell = row.cells.get(metric)
      cells.append(f'<td>{_told(cell.final if cell else None)}</td>')
      cells += [f'<td>{table.number(cell.best.value) if cell else ""}</td>'] * (metric in curved)
      if compared:
        cells.append(_difference(cell.difference if cell else None, more))
    size = f'{row.parameters / 1e6:.2f} M' if row.parameters else ''
    flops = f'{row.flops:.2e}' if row.flops else ''
    cells += [f'<td>{text}</td>' for text in (size, row.steps or '', flops, table.duration(row.seconds))]
    lines.append(f'<tr{" class=base" if row.baseline and compared else ""}>{"".join(cells)}</tr>')
  return f'<table><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def _name(number: int, row: Row, compared: bool) -> str:
  dot = f'<i class="dot" style="background:{curves.colour(number)}"></i>'
  marks = ['baseline'] * (row.baseline and compared)
  if table.status(row) != 'done':
    marks.append(table.status(row))
  soft = f' <small>{html.escape(", ".join(marks))}</small>' if marks else ''
  return f'<span class="key">{dot}{html.escape(row.name)}</span>{soft}'


def _told(found: Estimate | None) -> str:
  return html.escape(table.estimate(found))


def _difference(found: Estimate | None, more: bool) -> str:
  if found is None:
    return '<td></td>'
  kind = ''
  if found.apart:
    kind = ' class="better"' if (found.value > 0) == more else ' class="worse"'
  return f'<td{kind}>{html.escape(table.estimate(found, True))}</td>'


def _failures(results: Results) -> str:
  words = [(row.name, text) for row in results.rows for text in row.failures]
  if not words:
    return ''
  told = ''.join(f'<li><b>{html.escape(name)}</b>: {html.escape(text)}</li>' for name, text in words)
  return f'<h2>What failed, and its last words</h2><ul class="failed">{told}</ul>'


def _pictures(results: Results) -> str:
  names = [row.name for row in results.rows]
  parts = []
  for metric in results.metrics:
    drawn = curves.svg(
      {number: row.curves[metric] for number, row in enumerate(results.rows) if row.curves.get(metric)},
      names,
      metric,
    )
    if drawn:
      parts.append(f'<h2>{html.escape(metric)}</h2>{drawn}')
  if not parts:
    return ''
  dots = ' &nbsp; '.join(
    f'<span class="key"><i class="dot" style="background:{curves.colour(n)}"></i>{html.escape(name)}</span>'
    for n, name in enumerate(names)
  )
  return f'{"".join(parts)}<p>{dots}</p>'
