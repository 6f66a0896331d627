"""Colours of pictures that are encoded again: kept and said, or brought from HDR to what all screens show.

HDR pictures (BT.2020 with the PQ or HLG curve of BT.2100) come out as BT.709: a table of three dimensions,
which FFmpeg's `lut3d` interpolates, takes nonlinear BT.2020 to nonlinear BT.709.
"""

import dataclasses
import functools
import os
import tempfile
from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np

# Numbers of ITU-T H.273.
_PQ, _HLG = 16, 18
_BT709, _RGB, _UNSAID = 1, 0, 2
_LIMITED = 1
_WHITE = 203.0  # cd/m2 of white in HDR (BT.2408), which becomes that of an ordinary screen
_PEAK = 1000.0  # cd/m2 that still differ from what is brighter
_KNEE = 0.75  # of white, from which on the brighter is compressed
_SIZE = 33  # entries of the table a dimension

# BT.2087: linear BT.2020 to linear BT.709.
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])


@dataclasses.dataclass(frozen=True)
class Turn:
  """How pictures of a stream become 8 bit 4:2:0, limited range.

  Attributes:
    primaries, curve, matrix: of the source, by H.273.
  """

  primaries: int
  curve: int
  matrix: int

  @staticmethod
  def of(stream: Any, frame: Any) -> 'Turn':
    """By what the stream says, or its first picture."""
    told = stream.codec_context

    def said(name: str) -> int:
      value = int(getattr(told, name) or _UNSAID)
      return int(getattr(frame, name)) if value == _UNSAID else value

    matrix = int(frame.colorspace)
    return Turn(said('color_primaries'), said('color_trc'), matrix)

  @property
  def is_hdr(self) -> bool:
    return self.curve in (_PQ, _HLG)

  def describe(self, encoder: Any) -> None:
    """Tells an encoder what its pictures are."""
    if self.is_hdr:
      encoder.color_primaries = encoder.color_trc = encoder.colorspace = _BT709
    else:
      encoder.color_primaries, encoder.color_trc = self.primaries, self.curve
      # What was RGB is turned by FFmpeg's own default, that of standard definition.
      encoder.colorspace = 6 if self.matrix == _RGB else self.matrix
    encoder.color_range = _LIMITED

  def applied(self, frame: Any, size: tuple[int, int]) -> Any:
    """The picture in 8 bit 4:2:0, scaled."""
    if not self.is_hdr:
      return frame.reformat(*size, format='yuv420p', dst_color_range='MPEG')
    wide = frame.reformat(*size, format='gbrp16le', src_colorspace=9, dst_color_range='JPEG')
    toned = _through_table(wide, self.curve)
    return toned.reformat(format='yuv420p', dst_colorspace='ITU709', dst_color_range='MPEG')


def _through_table(frame: Any, curve: int) -> Any:
  graph = _graph(frame.width, frame.height, frame.format.name, curve)
  frame.pts = 0
  graph.push(frame)
  return graph.pull()


@functools.lru_cache(maxsize=4)
def _graph(width: int, height: int, pixels: str, curve: int) -> av.filter.Graph:
  graph = av.filter.Graph()
  source = graph.add_buffer(
    width=width, height=height, format=av.VideoFormat(pixels), time_base=Fraction(1, 1000)
  )
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'hdr.cube')
    with open(path, 'w') as file:
      file.write(cube(curve))
    table = graph.add('lut3d', file=path, interp='tetrahedral')
    sink = graph.add('buffersink')
    source.link_to(table)
    table.link_to(sink)
    graph.configure()
  return graph


def cube(curve: int) -> str:
  """The table as a .cube file: red changes fastest."""
  axis = np.linspace(0, 1, _SIZE)
  blue, green, red = np.meshgrid(axis, axis, axis, indexing='ij')
  rows = to_709(np.stack([red, green, blue], -1).reshape(-1, 3), curve)
  lines = '\n'.join(' '.join(f'{value:.6f}' for value in row) for row in rows)
  return f'LUT_3D_SIZE {_SIZE}\n{lines}\n'


def to_709(signal: np.ndarray, curve: int) -> np.ndarray:
  """Nonlinear BT.2020 RGB [n, 3] in 0 .. 1 to nonlinear BT.709.

  Light above a knee is compressed so that `_PEAK` is full scale, by the same factor in all colours.
  """
  light = (pq(signal) if curve == _PQ else hlg(signal)) / _WHITE
  brightest = light.max(-1, keepdims=True)
  light = light * (_compressed(brightest) / np.maximum(brightest, 1e-9))
  return np.clip(light @ _TO_709.T, 0, 1) ** (1 / 2.4)


def _compressed(light: np.ndarray) -> np.ndarray:
  """Light in units of white: as it is up to the knee, then towards 1, which the peak attains."""
  peak, room = _PEAK / _WHITE - _KNEE, 1 - _KNEE
  over = np.clip(light - _KNEE, 0, peak)
  # A hyperbola that leaves the knee with slope 1 and arrives at (peak, room).
  bent = over / (1 + over * (1 / room - 1 / peak))
  return np.where(light <= _KNEE, light, _KNEE + bent)


def pq(signal: np.ndarray) -> np.ndarray:
  """cd/m2 of a PQ signal (SMPTE ST 2084, BT.2100)."""
  m1, m2 = 2610 / 16384, 2523 / 4096 * 128
  c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
  root = np.clip(signal, 0, 1) ** (1 / m2)
  return 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def hlg(signal: np.ndarray) -> np.ndarray:
  """cd/m2 of an HLG signal on a screen of 1,000 cd/m2 (BT.2100)."""
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
  luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
  return 1000 * scene * np.maximum(luminance, 1e-9)[..., None] ** 0.2
