"""How far a convolutional network sees: what a stretch of its output depends on."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Conv:
  """Output t sees inputs t x stride - before ... t x stride - before + (kernel - 1) x dilation."""

  kernel: int
  before: int
  stride: int = 1
  dilation: int = 1

  def inputs(self, first: int, last: int) -> tuple[int, int]:
    """First and last input that the outputs `first` to `last` see."""
    start = first * self.stride - self.before
    return start, last * self.stride - self.before + (self.kernel - 1) * self.dilation


@dataclasses.dataclass(frozen=True)
class Up:
  """Transposed convolution: input i reaches outputs i x stride - trim ... i x stride - trim + kernel - 1."""

  kernel: int
  trim: int
  stride: int

  def inputs(self, first: int, last: int) -> tuple[int, int]:
    """First and last input that the outputs `first` to `last` see."""
    return -((self.kernel - 1 - first - self.trim) // self.stride), (last + self.trim) // self.stride


def reach(layers: Sequence[Conv | Up], outputs: int, inputs: int) -> tuple[int, int]:
  """Frames before and after its own that a frame's output depends on.

  Args:
    layers: in the order of computation; residual branches as if they were in line.
    outputs, inputs: elements of the last layer's output and of the first layer's input in a frame.
  """
  first, last = 0, outputs - 1
  for layer in reversed(layers):
    lower, upper = layer.inputs(first, last)
    # A skip connection around a layer sees what it passes by.
    if isinstance(layer, Conv) and layer.stride == 1:
      lower, upper = min(lower, first), max(upper, last)
    first, last = lower, upper
  return max(0, -(first // inputs)), max(0, last // inputs)
