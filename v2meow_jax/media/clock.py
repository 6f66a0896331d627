"""Times that files leave out or begin anew, made whole."""

import bisect
from fractions import Fraction
from typing import Any

from av.container import InputContainer

# Formats that recordings are cut from and joined in, so that their clock may begin anew. Elsewhere a step
# back is damage, and a wide step ahead is a still picture.
_JOINED = {'mpegts', 'mpeg'}
# Steps of decoding times, in seconds, that no frame explains: as FFmpeg's own tools see it.
_BACK, _AHEAD = Fraction(1, 2), Fraction(10)


def may_restart(container: InputContainer) -> bool:
  """Whether files of this format are joined by appending one to another."""
  return container.format.name in _JOINED


def decoding_times_only(container: InputContainer) -> bool:
  """Whether the format says in which order packets are decoded, and not when their frames are shown."""
  return container.format.name == 'avi'


class Steady:
  """Lets the times of packets go on where the file's clock restarts or jumps.

  A part of the file between two such places is an epoch. All streams of an epoch are moved by the same time,
  so that they stay together: to the end of whatever the epoch before holds.

  Attributes:
    restarts: epochs but the first.
  """

  def __init__(self):
    self._moved = [Fraction(0)]  # seconds, by epoch
    self._epoch: dict[int, int] = {}  # by stream
    self._last: dict[int, Fraction] = {}  # the latest decoding time on the file's clock, by stream
    self._end = Fraction(0)  # of all that has been placed

  @property
  def restarts(self) -> int:
    return len(self._moved) - 1

  def place(self, packet: Any) -> None:
    """Changes a packet's times to where they belong; packets come in the file's order."""
    stamp = packet.pts if packet.dts is None else packet.dts
    if stamp is None:
      return
    number, base = packet.stream_index, packet.time_base
    now = stamp * base
    epoch = self._epoch.get(number, self.restarts)
    last = self._last.get(number, now)
    if not -_BACK <= now - last <= _AHEAD:
      epoch += 1
      if epoch == len(self._moved):
        self._moved.append(self._end - now)
    self._epoch[number], self._last[number] = epoch, now
    moved = self._moved[epoch]
    if moved:
      ticks = round(moved / base)
      packet.pts = None if packet.pts is None else packet.pts + ticks
      packet.dts = None if packet.dts is None else packet.dts + ticks
    self._end = max(self._end, now + moved + (packet.duration or 0) * base)


class Shown:
  """Presentation times of frames whose packets say only when they are decoded, whatever the reordering.

  Decoders give frames in the order in which they are shown, and every packet holds one frame: the n-th frame
  is shown at the n-th of the decoding times, in order. At a key frame the count begins anew, so that a packet
  that gave no frame moves nothing behind the next one.
  """

  def __init__(self):
    # Since the last key frame: decoding times in order, how many of them are taken, and those of the frames.
    self._times: list[int] = []
    self._taken = 0
    self._own: list[int] = []

  def given(self, packet: Any) -> None:
    """Notes a packet that is about to be decoded, and has its decoding time as presentation time."""
    if packet.size and packet.dts is not None:
      bisect.insort(self._times, packet.dts)

  def placed(self, frame: Any) -> Any:
    """The frame with the time at which it is shown."""
    own = frame.pts
    if own is None:
      return frame
    if frame.key_frame:
      # Frames decoded after it may have been shown before it.
      self._own = [time for time in self._own if time > own]
      self._times = self._times[bisect.bisect_left(self._times, own) :]
      self._taken = len(self._own)
    self._own.append(own)
    if self._taken < len(self._times):
      frame.pts = self._times[self._taken]
      self._taken += 1
    return frame
