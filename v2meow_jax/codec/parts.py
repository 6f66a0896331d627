"""Networks in parts, so that long signals can be run through them piece by piece."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Part:
  """A method of a network, and what of its input a frame of its output depends on.

  Attributes:
    method: of the Linen network: [batch, frames x inputs, ...] -> [batch, frames x outputs, ...].
    before, after: frames of the input that are seen besides a frame's own.
    inputs, outputs: elements a frame.
    lead: frames that the first ones see after them, at the start of a signal alone: it is reflected there.
    recurrent: the method also takes and returns a carry, `method(x, carry) -> (y, carry)`, sees no other
      frames, and begins with carry None.
  """

  method: str
  before: int
  after: int
  inputs: int
  outputs: int
  lead: int = 0
  recurrent: bool = False


def encodes(name: str) -> bool:
  """Whether a network's parameters of this name belong to its encoder: all networks call them so."""
  return name.startswith('encoder')
