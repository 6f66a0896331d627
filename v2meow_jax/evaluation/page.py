"""A report as one HTML file: tables with intervals, pictures and players, nothing from elsewhere."""

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soxr

from v2meow_jax.evaluation import comparison, conditioning, controls
from v2meow_jax.evaluation.music_report import Example

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72em; margin: 0 auto; padding: 1em; color: #1c1c1c }
h1 { font-size: 1.5em } h2 { font-size: 1.2em; margin-top: 2em } h3 { font-size: 1em }
.wide { overflow-x: auto; margin: .5em 0 }
table { border-collapse: collapse; font-size: .85em; font-variant-numeric: tabular-nums }
th, td { padding: .3em .6em; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
th { background: #f5f5f5; font-weight: 600 }
td:first-child, th:first-child { text-align: left; position: sticky; left: 0; background: #fff }
th:first-child { background: #f5f5f5 }
small { color: #666; display: block; white-space: nowrap }
td.made { background: #eef5ff }
.flag { color: #a33; white-space: normal; max-width: 14em }
.says { color: #444; text-align: left; white-space: normal; min-width: 14em }
.sounds { display: grid; grid-template-columns: repeat(auto-fill, minmax(15em, 1fr)); gap: 1em }
.sounds img { width: 100%; height: 7em; image-rendering: auto; background: #000 } audio { width: 100% }
pre { overflow-x: auto; font-size: .8em; background: #f5f5f5; padding: 1em }
svg { display: block; width: 100%; max-width: 40em; height: auto }
@media (max-width: 40em) {
  td:first-child { min-width: 9.5em; max-width: 9.5em; overflow-wrap: break-word }
  td:first-child small { white-space: normal }
}
"""


def number(value: float | None) -> str:
  """Three significant digits, or a dash."""
  if value is None or not math.isfinite(value):
    return '–'  # noqa: RUF001 (a dash)
  return f'{value:.0f}' if abs(value) >= 1000 else f'{value:.3g}'


def cell(told: Mapping[str, Any] | None, kind: str = '') -> str:
  """A table's cell: value, and its interval below it."""
  if not told or told.get('value') is None:
    return f'<td class="{kind}">–</td>'  # noqa: RUF001
  low, high = told.get('interval', (None, None))
  edges = '' if low is None else f'<small>{number(low)} … {number(high)}</small>'
  return f'<td class="{kind}">{number(told["value"])}{edges}</td>'


def table(head: Sequence[str], rows: Sequence[str]) -> str:
  """A table that scrolls by itself on narrow screens."""
  heads = ''.join(f'<th>{html.escape(name)}</th>' for name in head)
  return (
    f'<div class="wide"><table><tr>{heads}</tr>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'
  )


def document(
  title: str,
  parts: Sequence[str],
  report: Mapping[str, Any],
  about: str = 'How to get these figures again',
) -> str:
  """The file."""
  told = json.dumps(report['provenance'], indent=2)
  notes = ''.join(f'<li>{html.escape(note)}</li>' for note in report.get('notes', ()))
  failed = ''.join(
    f'<li>{html.escape(name)}: {html.escape(why)}</li>' for name, why in report.get('failures', {}).items()
  )
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
{''.join(parts)}
{f'<h2>Notes</h2><ul>{notes}</ul>' if notes else ''}
{f'<h2>Not measured</h2><ul>{failed}</ul>' if failed else ''}
<details><summary>{about}</summary><pre>{html.escape(told)}</pre></details>
</body></html>
"""


def music(report: Mapping[str, Any], examples: Sequence[Example] = ()) -> str:
  """The page of a report on music."""
  ways, rows = report['ways'], report['table']
  flagged = [row for row in rows if row['flag']]
  parts = [
    f'<p>{report["provenance"]["pieces"]} pieces, up to {number(report["provenance"]["seconds_a_piece"])} s '
    'of each. Below each figure is its 95% interval. Controls stand beside what is measured: believe no '
    'metric that does not '
    'tell them from the truth.</p>',
    '<h2>Do not believe</h2>' + _list(f'{row["metric"]}: {row["flag"]}' for row in flagged)
    if flagged
    else '<p>No metric takes silence, noise or other music for the truth.</p>',
  ]
  described = [row for row in rows if not row['better']]
  judged = [row for row in rows if row['better']]
  for title, part in (('Against the truth and the video', judged), ('What it is like', described)):
    body = [
      f'<td>{_broken(row["metric"])}<small>{_about(row)}</small>{_within(row)}{_flag(row)}</td>'
      + ''.join(cell(row['ways'].get(way), 'made' if way == 'made' else '') for way in ways)
      for row in part
    ]
    if body:
      parts.append(f'<h2>{title}</h2>' + table(['metric', *ways], body))
  parts.insert(2, '<h2>At a glance</h2>' + _glance(judged, ways))
  parts.append(_sounds(examples))
  cards = [
    f'<td>{html.escape(row["metric"])}</td><td class="says">{html.escape(row["says"])}</td>' for row in rows
  ]
  told = [f'<td>{way}</td><td class="says">{html.escape(says)}</td>' for way, says in controls.WAYS.items()]
  parts.append('<h2>What the columns are</h2>' + table(['way', 'what it is'], told))
  parts.append('<h2>What the metrics say, and what not</h2>' + table(['metric', 'says'], cards))
  return document('Music, measured beside controls', parts, report)


def _about(row: Mapping[str, Any]) -> str:
  arrow = {'lower': 'lower is better', 'higher': 'higher is better', '': ''}[row['better']]
  return html.escape(', '.join(part for part in (row['unit'], arrow) if part))


def _within(row: Mapping[str, Any]) -> str:
  """Where the truth's pieces lie, and how many of ours do."""
  if 'range' not in row:
    return ''
  told = row['range']
  return (
    f"<small>truth's 5–95%: {number(told['low'])} … {number(told['high'])}</small>"  # noqa: RUF001
    f'<small>{told["inside"]:.0%} of made within, {told["truth"]:.0%} of the truth</small>'
  )


def _broken(name: str) -> str:
  """A metric's name that may be broken at its slashes and underscores."""
  return html.escape(name).replace('/', '/<wbr>').replace('_', '_<wbr>')


def _flag(row: Mapping[str, Any]) -> str:
  return f'<small class="flag">{html.escape(row["flag"])}</small>' if row['flag'] else ''


COLOURS = {
  'made': '#1a5fb4',
  'truth': '#26a269',
  'noise': '#a51d2d',
  'silence': '#5e5c64',
  'unigram': '#c64600',
}


def _glance(rows: Sequence[Mapping[str, Any]], ways: Sequence[str]) -> str:
  """Every metric on a line from its worst value to its best, with the intervals of made and truth."""
  lines, height = [], 26
  for number, row in enumerate(rows):
    values = {way: row['ways'][way] for way in ways if row['ways'].get(way, {}).get('value') is not None}
    sign = 1 if row['better'] == 'higher' else -1
    ends = [sign * told['value'] for told in values.values()]
    if not ends or max(ends) == min(ends):
      continue
    low, span, y = min(ends), max(ends) - min(ends), height * number + 16

    def place(value: float, sign=sign, low=low, span=span) -> float:
      return 230 + 360 * min(max((sign * value - low) / span, -0.02), 1.02)

    parts = [f'<text x="222" y="{y + 4}" text-anchor="end">{html.escape(row["metric"])}</text>']
    parts.append(f'<line x1="230" x2="590" y1="{y}" y2="{y}" stroke="#ddd"/>')
    for way, told in values.items():
      colour = COLOURS.get(way, '#9a9996')
      if way in ('made', 'truth') and told['interval'][0] is not None:
        a, b = (place(edge) for edge in told['interval'])
        parts.append(
          f'<line x1="{a:.0f}" x2="{b:.0f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
        )
      title = html.escape(f'{way} {number_of(told)}')
      parts.append(
        f'<circle cx="{place(told["value"]):.0f}" cy="{y}" r="5" fill="{colour}">'
        f'<title>{title}</title></circle>'
      )
    lines.append(''.join(parts))
  names = ''.join(
    f'<span style="color:{COLOURS.get(way, "#9a9996")}">&#9679; {html.escape(way)} </span>' for way in ways
  )
  return (
    f'<p>Left the worst of all ways, right the best. {names}</p>'
    f'<svg viewBox="0 0 600 {height * len(rows) + 10}" '
    f'font-size="12" role="img" aria-label="metrics at a glance">{"".join(lines)}</svg>'
  )


def number_of(told: Mapping[str, Any]) -> str:
  """A value with its interval, as text."""
  low, high = told['interval']
  return number(told['value']) + ('' if low is None else f' [{number(low)}, {number(high)}]')


def _list(lines) -> str:
  return '<ul>' + ''.join(f'<li>{html.escape(line)}</li>' for line in lines) + '</ul>'


def _sounds(examples: Sequence[Example]) -> str:
  if not examples:
    return ''
  made = []
  for example in examples:
    figures = ''.join(
      f'<div><b>{html.escape(way)}</b>'
      f'<img alt="spectrogram of {html.escape(way)}" src="{_spectrogram(*sound)}">'
      f'<audio controls preload="none" src="{_player(*sound)}"></audio></div>'
      for way, sound in example.sounds.items()
    )
    made.append(f'<h3>{html.escape(example.name)}</h3><div class="sounds">{figures}</div>')
  return '<h2>To be heard</h2>' + ''.join(made)


def _spectrogram(audio: np.ndarray, rate: int) -> str:
  """A log spectrogram to 8 kHz as the address of a picture."""
  # matplotlib takes a while to import, which other commands need not pay.
  import matplotlib

  mono = soxr.resample(audio.mean(1), rate, 16000, 'HQ')
  frames = np.lib.stride_tricks.sliding_window_view(np.pad(mono, (0, 1024)), 1024)[
    :: max(256, len(mono) // 300)
  ]
  level = 20 * np.log10(np.abs(np.fft.rfft(frames * np.hanning(1024))) + 1e-5)
  shown = np.clip((level.T[::-1][::4] + 80) / 110, 0, 1)
  colours = np.round(255 * np.asarray(matplotlib.colormaps['magma'](shown))[..., :3]).astype(np.uint8)
  return address('image/png', _png(colours))


def _png(colours: np.ndarray) -> bytes:
  from PIL import Image  # matplotlib's own dependency

  file = io.BytesIO()
  Image.fromarray(colours).save(file, 'PNG', optimize=True)
  return file.getvalue()


def _player(audio: np.ndarray, rate: int) -> str:
  return address('audio/mpeg', mp3(audio, rate))


def mp3(audio: np.ndarray, rate: int, bit_rate: int = 96000) -> bytes:
  """MP3 of [samples, 1 or 2 channels], which every browser plays."""
  wide = audio if rate in (32000, 44100, 48000) else soxr.resample(audio, rate, 44100, 'HQ')
  own = rate if rate in (32000, 44100, 48000) else 44100
  file, layout = io.BytesIO(), 'mono' if audio.shape[1] == 1 else 'stereo'
  with av.open(file, 'w', format='mp3') as out:
    stream = out.add_stream('libmp3lame', rate=own, layout=layout)
    stream.bit_rate = bit_rate
    for at in range(0, len(wide), 1152):
      block = np.ascontiguousarray(np.clip(wide[at : at + 1152].T, -1, 1).astype(np.float32))
      frame = av.AudioFrame.from_ndarray(block, format='fltp', layout=layout)
      frame.sample_rate, frame.pts, frame.time_base = own, at, Fraction(1, own)
      out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
  return file.getvalue()


def address(kind: str, data: bytes) -> str:
  """What stands in a page for a file of that kind."""
  return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def likelihood(report: Mapping[str, Any]) -> str:
  """The page of a report on likelihoods."""
  parts = [
    '<p>Intervals are at 95%, tracks being drawn. Gains are nats a token that a crop costs more under '
    'another condition than under its own: above 0, the stage listens. <b>shifted</b>: the same video moved '
    f'by {number(report["provenance"]["shift"])} s; <b>moment</b>: another moment of the same track; '
    '<b>track</b>: another track; <b>none</b>: left out.</p>'
  ]
  head = ['stage', 'nats a token', 'nats a second', 'accuracy', 'training data', 'unigram', 'bigram']
  body = []
  for name, stage in report['stages'].items():
    own = stage['validation']
    cells = [cell(own[key]) for key in ('nats_a_token', 'nats_a_second', 'accuracy')]
    cells.append(cell(stage['train']['nats_a_token']))
    cells += [f'<td>{number(stage[key]["nats_a_token"])}</td>' for key in ('unigram', 'bigram')]
    body.append(f'<td>{html.escape(name)}</td>' + ''.join(cells))
  parts.append('<h2>Likelihood of held-out music</h2>' + table(head, body))
  gains = [
    f'<td>{html.escape(name)}: {html.escape(condition)}</td>'
    + ''.join(cell(kinds[kind]['gain']) for kind in conditioning.OTHERS)
    + f'<td>{_needed(kinds["moment"])}</td>'
    for name, stage in report['stages'].items()
    for condition, kinds in stage['conditions'].items()
  ]
  if gains:
    head = ['stage: condition', *conditioning.OTHERS, 'tracks to see that of moment']
    parts.append('<h2>Does it listen?</h2>' + table(head, gains))
  places = [
    f'<td>{html.escape(name)}: {html.escape(condition)}, {kind}</td>'
    + ''.join(cell(place) for place in kinds[kind]['places'])
    for name, stage in report['stages'].items()
    for condition, kinds in stage['conditions'].items()
    for kind in ('moment', 'track')
  ]
  losses = [
    f'<td>{html.escape(name)}: nats a token</td>' + ''.join(map(cell, stage['validation']['places']))
    for name, stage in report['stages'].items()
  ]
  fifths = ['', *(f'{20 * n} to {20 * n + 20}%' for n in range(conditioning.PLACES))]
  parts.append('<h2>By place in the crop</h2>' + table(fifths, losses + places))
  levels = [
    f'<td>{html.escape(name)}: level {level}</td>' + cell(told['nats_a_token']) + cell(told['accuracy'])
    for name, stage in report['stages'].items()
    for level, told in stage['validation']['levels'].items()
  ]
  parts.append('<h2>By level</h2>' + table(['', 'nats a token', 'accuracy'], levels))
  if 'codec' in report:
    codec = report['codec']
    body = ['<td>codec</td>' + ''.join(cell(codec[name]) for name in ('log_mel', 'stft', 'si_sdr'))]
    parts.append('<h2>Codec</h2>' + table(['', 'log-mel', 'STFT', 'SI-SDR, dB'], body))
  return document('A bundle on held-out music', parts, report)


def _needed(kind: Mapping[str, Any]) -> str:
  return number(kind['tracks_needed'])


def compared(report: Mapping[str, Any]) -> str:
  """The page of a comparison."""
  body = [
    f'<td>{html.escape(name)}</td><td>{number(told["a"])}</td><td>{number(told["b"])}</td>{cell(told)}'
    f'<td>{comparison.verdict(told)}</td><td>{number(told["needed"])}</td>'
    for name, told in report['differences'].items()
  ]
  head = ['metric', 'A', 'B', 'B - A, paired', '', 'tracks to see such a difference']
  parts = [
    f'<p>A: {html.escape(report["a"])}<br>B: {html.escape(report["b"])}<br>'
    f'{report["paired"]} pieces paired.</p>',
    table(head, body),
  ]
  if report['unpaired']:
    rows = [
      f'<td>{html.escape(name)}</td>{cell(told["a"])}{cell(told["b"])}'
      for name, told in report['unpaired'].items()
    ]
    parts.append('<h2>Of whole sets, not paired</h2>' + table(['metric', 'A', 'B'], rows))
  return document('Two reports compared', parts, report)
