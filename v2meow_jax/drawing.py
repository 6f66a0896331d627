"""A picture of a piece: its film's pictures, spectrogram, and streams over one axis of time."""

import os
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from v2meow_jax import files, names
from v2meow_jax.encoders.motion import COLUMNS
from v2meow_jax.streams import Stream

WIDTH = 12  # inches of 100 pixels


def draw(
  path: str | os.PathLike,
  audio: Float[np.ndarray, 'samples channels'] | None,
  sample_rate: int,
  streams: Sequence[tuple[Stream, np.ndarray]],
  title: str,
  pictures: UInt8[np.ndarray, 'n height width 3'] | None = None,
) -> None:
  """Writes a PNG; one panel for the pictures, one for the sound and one for each stream.

  Args:
    path: of the picture.
    audio: the sound, if there is any.
    sample_rate: its, in Hz.
    streams: each with a rate and its elements [n, width].
    title: above everything.
    pictures: of the film, spread evenly over the time.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyplot would take longer to import

  figure = drawn(audio, sample_rate, streams, title, pictures)
  with files.replaced_when_done(path) as temporary, warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph')  # of a name in a script that the font lacks
    # `savefig` would draw it twice; the usual compression takes twice as long and saves a tenth.
    FigureCanvasAgg(figure).print_png(temporary, pil_kwargs={'compress_level': 3})


def drawn(
  audio: Float[np.ndarray, 'samples channels'] | None,
  sample_rate: int,
  streams: Sequence[tuple[Stream, np.ndarray]],
  title: str,
  pictures: UInt8[np.ndarray, 'n height width 3'] | None = None,
):
  """The figure that `draw` writes, of the same arguments."""
  from matplotlib.figure import Figure  # one of pyplot's would be kept

  lengths = [len(elements) / float(stream.rate) for stream, elements in streams]
  seconds = len(audio) / sample_rate if audio is not None else max(lengths, default=1.0)
  heights = [1.2] * (pictures is not None) + [2.2] * (audio is not None) + [1.8] * len(streams)
  # With room for titles and labels, in inches; to have it computed takes as long as all the drawing.
  total = sum(heights)
  figure = Figure(figsize=(WIDTH, total), dpi=100)
  found = figure.subplots(len(heights), 1, height_ratios=heights, sharex=True)
  figure.subplots_adjust(
    left=0.9 / WIDTH, right=1 - 0.2 / WIDTH, bottom=0.5 / total, top=1 - 0.4 / total, hspace=0.06
  )
  panels = list(np.atleast_1d(found))
  figure.suptitle(names.shown(title), parse_math=False, y=1 - 0.1 / total, va='top')
  if pictures is not None:
    panel = panels.pop(0)
    panel.imshow(np.concatenate(list(pictures), axis=1), aspect='auto', extent=(0, seconds, 0, 1))
    panel.set_yticks([])
  if audio is not None:
    panel = panels.pop(0)
    panel.imshow(
      spectrogram(audio.mean(1)),
      aspect='auto',
      origin='lower',
      cmap='magma',
      vmin=-100,
      vmax=0,
      extent=(0, seconds, 0, sample_rate / 2),
    )
    panel.set_ylabel('frequency (Hz)')
  for panel, (stream, elements) in zip(panels, streams, strict=True):
    if stream.kind == 'tokens':
      panel.imshow(
        elements.T / (stream.codes - 1),
        aspect='auto',
        interpolation='nearest',
        cmap='viridis',
        extent=(0, len(elements) / float(stream.rate), elements.shape[1] - 0.5, -0.5),
      )
      _label(panel, stream.name, 'level')
      panel.set_yticks(range(elements.shape[1]))
    elif stream.name == 'video/motion':
      times = np.arange(len(elements)) / float(stream.rate)
      for name in ('motion', 'brightness', 'cut'):
        panel.step(times, elements[:, COLUMNS.index(name)], where='post', label=name)
      panel.legend(loc='upper right', ncols=3, fontsize='small')
      _label(panel, stream.name)
    else:
      scaled = (elements - elements.mean(0)) / (elements.std(0) + 1e-6)
      end = len(elements) / float(stream.rate)
      panel.imshow(
        scaled.T, aspect='auto', cmap='coolwarm', vmin=-3, vmax=3, extent=(0, end, stream.width, 0)
      )
      _label(panel, stream.name, 'dimension')
  last = np.atleast_1d(found)[-1]
  last.set_xlim(0, seconds)
  last.set_xlabel('time (s)')
  return figure


def _label(panel, name: str, unit: str = '') -> None:
  """Names a panel, in smaller letters where the name is longer than the panel is high."""
  panel.set_ylabel(f'{name}\n{unit}'.strip(), fontsize=min(10, 220 / len(name)))


def spectrogram(signal: np.ndarray, window: int = 1024, columns: int = 3000) -> np.ndarray:
  """Decibels below the loudest bin, [frequencies, at most `columns` times], however long the signal is."""
  padded = np.pad(signal, (window // 2, window // 2)).astype(np.float32)
  count = min(columns, max(1, 4 * len(signal) // window))
  starts = np.linspace(0, len(signal) - 1, count).astype(int)
  frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window).astype(np.float32)
  power = np.abs(np.fft.rfft(frames)).T ** 2
  return 10 * np.log10(power / max(power.max(), 1e-12) + 1e-12)
