"""The page of a dataset: one HTML file that needs nothing beside it."""

import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from v2meow_jax.evaluation import page

_STYLE = """
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(19em, 1fr)); gap: 1.5em }
.plots svg { background: none; max-width: 24em } rect.bar { fill: #1a5fb4 } rect.out { fill: #a51d2d }
.reel { display: flex; width: 100% } .reel img { width: 100%; height: auto }
.sounds > div { overflow-wrap: anywhere; font-size: .85em }
text { font: 11px system-ui, sans-serif; fill: currentColor }
.total { display: flex; gap: 2em; flex-wrap: wrap } .total b { font-size: 1.6em; display: block }
.total small { display: block }
"""


@dataclasses.dataclass(frozen=True)
class Sample:
  """Something to look at and to hear.

  Attributes:
    name: of the clip.
    text: what is said of it.
    sound: float [samples, channels] and its rate in Hz.
    pictures: uint8 [n, height, width, 3].
  """

  name: str
  text: str
  sound: tuple[np.ndarray, int] | None
  pictures: np.ndarray | None


def document(
  title: str,
  summary: Mapping[str, Any],
  reasons: Mapping[str, int],
  shown: Sequence[Sample],
  left_out: Sequence[Sample],
) -> str:
  """The file.

  Args:
    title: the dataset.
    summary: of `summary.of_clips` or `of_candidates`.
    reasons: how often each kind of reason was given.
    shown: samples of what is in it.
    left_out: samples of what is not.
  """
  parts = [f'<style>{_STYLE}</style>', _totals(summary)]
  plots = [_figure(plot) for plot in summary['plots']]
  plots += [_bars(name, told, ' h') for name, told in summary.get('hours_by', {}).items()]
  plots += [_bars('licences', summary['licences'], ' clips')]
  parts.append(f'<h2>What is in it</h2><div class="plots">{"".join(plots)}</div>')
  if summary.get('stages'):
    parts.append('<h2>What the filters did</h2>' + _stages(summary['stages']))
  if reasons:
    parts.append(f'<h2>Left out, by reason</h2><div class="plots">{_bars("", reasons, "", "out")}</div>')
  parts.append(_samples('Some that are in it', shown))
  if left_out:
    parts.append(_samples('Some that are not', left_out))
  return page.document(f'Dataset {title}', parts, {'provenance': summary}, 'All figures')


def _totals(summary: Mapping[str, Any]) -> str:
  splits = summary['splits']
  hours, clips = (sum(told[what] for told in splits.values()) for what in ('hours', 'clips'))
  cells = [('hours', f'{hours:,.2f}', ''), ('clips', f'{clips:,}', '')]
  for split, told in splits.items():
    about = f'{told["clips"]:,} clips of {told["sources"]:,} sources'
    cells.append((f'{split}: hours', f'{told["hours"]:,.2f}', about))
  made = (f'<div><b>{value}</b>{name}<small>{about}</small></div>' for name, value, about in cells)
  return f'<div class="total">{"".join(made)}</div>'


def _figure(plot: Mapping[str, Any]) -> str:
  """A histogram."""
  counts, edges = plot['counts'], plot['edges']
  most, width = max([*counts, 1]), 300 / len(counts)
  bars = ''.join(
    f'<rect class="bar" x="{n * width:.1f}" y="{110 - 100 * count / most:.1f}" width="{width - 1:.1f}" '
    f'height="{100 * count / most:.1f}"><title>{edges[n]:g} to {edges[n + 1]:g}: {count}</title></rect>'
    for n, count in enumerate(counts)
  )
  ends = (
    f'<text x="0" y="126">{edges[0]:.4g}</text><text x="300" y="126" text-anchor="end">{edges[-1]:.4g}</text>'
  )
  name = html.escape(f'{plot["name"]} ({plot["unit"]}, median {page.number(plot["quantiles"][2])})')
  return (
    f'<div>{name}<svg viewBox="0 0 300 130" role="img" aria-label="{name}">{bars}{ends}'
    '<line x1="0" x2="300" y1="110.5" y2="110.5" stroke="#999"/></svg></div>'
  )


def _bars(name: str, told: Mapping[str, float], unit: str, kind: str = 'bar') -> str:
  """Values by name, the greatest first."""
  rows, most, lines = sorted(told.items(), key=lambda row: -row[1]), max([*told.values(), 1e-9]), []
  for number, (label, value) in enumerate(rows):
    y = 30 * number
    lines.append(
      f'<text x="0" y="{y + 12}">{html.escape(label)}: {page.number(value)}{unit}</text>'
      f'<rect class="{kind}" x="0" y="{y + 16}" width="{max(300 * value / most, 1):.1f}" height="8"/>'
    )
  told_name = html.escape(name)
  return (
    f'<div>{told_name}<svg viewBox="0 0 300 {30 * len(rows)}" role="img" aria-label="{told_name}">'
    f'{"".join(lines)}</svg></div>'
  )


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
  rows = []
  for stage in stages:
    settings = ', '.join(f'{name} {value}' for name, value in stage['settings'].items() if name != 'type')
    rows.append(
      f'<td>{html.escape(stage["filter"])}</td><td>{stage["judged"]:,} {stage["of"]}</td>'
      f'<td>{stage["rejected"]:,}</td><td>{stage["hours_rejected"]:,.2f}</td>'
      f'<td class="says">{html.escape(settings)}</td>'
    )
  return page.table(['filter', 'judged', 'left out', 'hours left out', 'settings'], rows)


def _samples(title: str, samples: Sequence[Sample]) -> str:
  made = []
  for sample in samples:
    parts = [f'<b>{html.escape(sample.name)}</b>']
    if sample.pictures is not None and len(sample.pictures):
      strip = np.concatenate(list(sample.pictures), axis=1)
      parts.append(
        f'<div class="reel"><img alt="pictures" src="{page.address("image/jpeg", _jpeg(strip))}"></div>'
      )
    if sample.sound is not None:
      source = page.address('audio/mpeg', page.mp3(*sample.sound, bit_rate=64000))
      parts.append(f'<audio controls preload="none" src="{source}"></audio>')
    parts.append(html.escape(sample.text))
    made.append(f'<div>{"".join(parts)}</div>')
  return f'<h2>{title}</h2><div class="sounds">{"".join(made)}</div>'


def _jpeg(picture: np.ndarray) -> bytes:
  from PIL import Image  # matplotlib's own dependency

  file = io.BytesIO()
  Image.fromarray(picture).save(file, 'JPEG', quality=80)
  return file.getvalue()
