"""Long signals piece by piece through the parts of a network, to the result that the whole would give."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from v2meow_jax.codec.parts import Part


@dataclasses.dataclass(frozen=True)
class PartState:
  """Where a part is in its signal.

  Attributes:
    kept: the latest input, [batch, elements, ...], or None before any.
    first: frame that `kept` begins with.
    emitted: frames of output that are out.
    carry: of a recurrent part.
  """

  kept: np.ndarray | None = None
  first: int = 0
  emitted: int = 0
  carry: Any = None


State = tuple[PartState, ...]


class Stream:
  """Runs parts over a signal that arrives in blocks.

  A part is run on a window around the frames that are new, as wide as they see; what is wrong at the
  window's ends, where the network takes them for those of the signal, is cut off. So the result is that
  of the whole signal up to the order of float32 sums, with a delay of the frames that are seen ahead.
  Every window within a signal has one shape, so a part is compiled once for them.

  Args:
    parts: one after the other.
    run: (part, input, carry) -> (output, carry).
    block: most frames that are run at once.
  """

  def __init__(self, parts: tuple[Part, ...], run: Callable[[Part, Any, Any], tuple[Any, Any]], block: int):
    self.parts, self._run, self.block = parts, run, block

  def start(self) -> State:
    """The state before anything was pushed."""
    return tuple(PartState() for _ in self.parts)

  def push(self, state: State, x: np.ndarray, last: bool = False) -> tuple[State, np.ndarray | None]:
    """Takes more input and gives the output that it makes known.

    Args:
      state: from `start` or from the push before; it is not changed.
      x: [batch, elements, ...], any number of whole frames, or of anything where it is the last; not empty.
      last: this is the end of the signal.

    Returns:
      The new state, and [batch, elements, ...] or None where nothing is known yet.
    """
    step = self.block * self.parts[0].inputs
    made = []
    for at in range(0, x.shape[1], step):
      state, y = self._push(state, x[:, at : at + step], last and at + step >= x.shape[1])
      made += [] if y is None else [y]
    return state, np.concatenate(made, 1) if made else None

  def _push(self, state: State, x: np.ndarray | None, last: bool) -> tuple[State, np.ndarray | None]:
    after = []
    for part, at in zip(self.parts, state, strict=True):
      at, x = self._advance(part, at, x, last)
      after.append(at)
    return tuple(after), x

  def _advance(
    self, part: Part, at: PartState, x: np.ndarray | None, last: bool
  ) -> tuple[PartState, np.ndarray | None]:
    if part.recurrent:
      if x is None:
        return at, None
      y, carry = self._run(part, x, at.carry)
      return dataclasses.replace(at, carry=carry), np.asarray(y)
    kept = [part for part in (at.kept, x) if part is not None]
    if not kept:
      return at, None
    signal = np.concatenate(kept, 1) if len(kept) > 1 else kept[0]
    known = at.first + -(-signal.shape[1] // part.inputs)
    ready = known if last else known - part.after
    y = None
    if ready > at.emitted and (last or known > part.lead + part.after):
      low = max(at.first, min(at.emitted - part.before, known - self._window(part) if last else known))
      window = signal[:, (low - at.first) * part.inputs :]
      if not last:  # what fills it up is seen by none of the frames that are taken
        lacks = self._window(part) * part.inputs - window.shape[1]
        window = np.pad(window, ((0, 0), (0, max(lacks, 0)), *[(0, 0)] * (window.ndim - 2)))
      y = np.asarray(self._run(part, window, None)[0])
      end = None if last else (ready - low) * part.outputs
      y = y[:, (at.emitted - low) * part.outputs : end]
      at = dataclasses.replace(at, emitted=ready)
    # A block more than the next window needs, so that the last one, too, can have the usual shape.
    first = max(at.first, at.emitted - part.before - self.block)
    return dataclasses.replace(at, kept=signal[:, (first - at.first) * part.inputs :], first=first), y

  def _window(self, part: Part) -> int:
    return part.before + self.block + part.after
