"""A picture of what was generated: spectrogram, the video's motion, and the token streams over time."""

import os
import warnings

import numpy as np

from v2meow_jax import files, names
from v2meow_jax.encoders.motion import COLUMNS
from v2meow_jax.generation.pipeline import Generated
from v2meow_jax.streams import Stream


def draw(path: str | os.PathLike, made: Generated, streams: list[Stream], title: str) -> None:
  """Writes a PNG; one panel for the sound and one for each stream.

  Args:
    path: of the picture.
    made: what the pipeline returned.
    streams: what is drawn of it, each with a rate.
    title: above everything.
  """
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  seconds = len(made.audio) / made.sample_rate
  figure, panels = pyplot.subplots(
    1 + len(streams), 1, figsize=(12, 2.2 + 1.8 * len(streams)), sharex=True, layout='constrained'
  )
  panels = np.atleast_1d(panels)
  figure.suptitle(names.shown(title), parse_math=False)
  panels[0].imshow(
    spectrogram(made.audio.mean(1)),
    aspect='auto',
    origin='lower',
    cmap='magma',
    vmin=-100,
    vmax=0,
    extent=(0, seconds, 0, made.sample_rate / 2),
  )
  panels[0].set_ylabel('frequency (Hz)')
  for panel, stream in zip(panels[1:], streams, strict=True):
    elements = made.streams[stream.name]
    if stream.kind == 'tokens':
      panel.imshow(
        elements.T / (stream.codes - 1),
        aspect='auto',
        interpolation='nearest',
        cmap='viridis',
        extent=(0, len(elements) / float(stream.rate), stream.width - 0.5, -0.5),
      )
      panel.set_ylabel(f'{stream.name}\nlevel')
      panel.set_yticks(range(stream.width))
    elif stream.name == 'video/motion':
      times = np.arange(len(elements)) / float(stream.rate)
      for name in ('motion', 'brightness', 'cut'):
        panel.step(times, elements[:, COLUMNS.index(name)], where='post', label=name)
      panel.legend(loc='upper right', ncols=3, fontsize='small')
      panel.set_ylabel(stream.name)
    else:
      scaled = (elements - elements.mean(0)) / (elements.std(0) + 1e-6)
      end = len(elements) / float(stream.rate)
      panel.imshow(
        scaled.T, aspect='auto', cmap='coolwarm', vmin=-3, vmax=3, extent=(0, end, stream.width, 0)
      )
      panel.set_ylabel(f'{stream.name}\ndimension')
  panels[-1].set_xlim(0, seconds)
  panels[-1].set_xlabel('time (s)')
  with files.replaced_when_done(path) as temporary, warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph')  # of a name in a script that the font lacks
    figure.savefig(temporary, dpi=100, format='png')
  pyplot.close(figure)


def spectrogram(signal: np.ndarray, window: int = 1024, columns: int = 3000) -> np.ndarray:
  """Decibels below the loudest bin, [frequencies, at most `columns` times], however long the signal is."""
  padded = np.pad(signal, (window // 2, window // 2)).astype(np.float32)
  count = min(columns, max(1, 4 * len(signal) // window))
  starts = np.linspace(0, len(signal) - 1, count).astype(int)
  frames = padded[starts[:, None] + np.arange(window)] * np.hanning(window).astype(np.float32)
  power = np.abs(np.fft.rfft(frames)).T ** 2
  return 10 * np.log10(power / max(power.max(), 1e-12) + 1e-12)
