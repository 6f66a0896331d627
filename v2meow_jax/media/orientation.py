"""How a decoded picture is turned and mirrored for display, by the display matrix of its file."""

import dataclasses
import math
import struct
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type


@dataclasses.dataclass(frozen=True)
class Orientation:
  """A mirror image first, then a turn.

  Attributes:
    mirrored: left and right change places.
    turns: quarter turns clockwise, 0 to 3.
  """

  mirrored: bool
  turns: int

  @property
  def sideways(self) -> bool:
    """Whether width and height change places."""
    return self.turns % 2 == 1

  def applied(self, picture: np.ndarray) -> np.ndarray:
    """The picture [height, width, ...] as it is displayed."""
    if self.mirrored:
      picture = picture[:, ::-1]
    return np.ascontiguousarray(np.rot90(picture, -self.turns))


UPRIGHT = Orientation(False, 0)


def matrix_of(frame: av.VideoFrame) -> bytes | None:
  """The display matrix as the file has it: nine 32-bit integers; None where there is none."""
  found: Any = frame.side_data.get(Type.DISPLAYMATRIX)  # pyright: ignore (a name would be looked up slowly)
  return None if found is None else bytes(found)[:36]


def entries(matrix: bytes) -> tuple[int, ...]:
  """Its nine numbers."""
  return struct.unpack('=9i', matrix)


def of(frame: av.VideoFrame) -> Orientation:
  """The orientation of a frame, to the nearest quarter turn.

  Columns of the matrix are where a step to the right and a step down in the picture lead on the screen
  (libavutil's display.h); one that turns about the other way mirrors.
  """
  data = matrix_of(frame)
  if data is None:
    return UPRIGHT
  a, b, _, c, d, *_ = entries(data)
  mirrored = a * d - b * c < 0
  if mirrored:
    a, b = -a, -b
  return Orientation(mirrored, round(math.atan2(b, a) / (math.pi / 2)) % 4)
