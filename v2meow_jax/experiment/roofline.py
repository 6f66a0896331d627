"""How long a compiled step might take: a roofline from the compiler's counts, no measurement."""

import dataclasses
import re

from v2meow_jax.experiment.compilation import Compiled
from v2meow_jax.training.devices import limits


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Seconds of a step by what bounds it.

  Attributes:
    products: at the peak of dense bfloat16 products.
    memory: at the full speed of a device's memory.
    network: at the full speed of its links.
    model_flops: of a step, on one device.
    peak: of a device, FLOP/s.
  """

  products: float
  memory: float
  network: float
  model_flops: float
  peak: float

  @property
  def seconds(self) -> float:
    """Of a step in which memory and links work while products are made: the longest of the three."""
    return max(self.products, self.memory, self.network)

  @property
  def serial(self) -> float:
    """Of a step in which nothing overlaps."""
    return self.products + self.memory + self.network

  @property
  def bound(self) -> str:
    """What bounds it."""
    return max(('products', 'memory', 'network'), key=lambda name: getattr(self, name))

  def __str__(self) -> str:
    names = ('products', 'memory', 'network')
    parts = ', '.join(f'{1e3 * getattr(self, name):.0f} {name}' for name in names)
    return (
      f'ms a step    {1e3 * self.seconds:.0f} at best, {1e3 * self.serial:.0f} without overlap ({parts}): '
      f'MFU {self.utilisation(self.seconds):.0%} to {self.utilisation(self.serial):.0%} (estimate)'
    )

  def utilisation(self, seconds: float) -> float:
    """Model FLOPs utilisation of a step of so many seconds."""
    return self.model_flops / (seconds * self.peak)


def estimate(compiled: Compiled, remat: str) -> Roofline | None:
  """The roofline of a step; None where the device or the FLOPs are not known.

  A compiler counts a loop's body once. How often bodies are run is taken from the FLOPs: those that the model
  needs (by a third more where layers are computed again) over those that were counted; bytes grow alike, for
  nearly all of them are moved within loops.

  Args:
    compiled: the step.
    remat: of `TransformerConfig`.
  """
  count, kind = re.fullmatch(r'(\d+) x (.*)', compiled.devices).groups()  # type: ignore[union-attr]
  known = limits(kind)
  if known is None or not compiled.model_flops or not compiled.flops > 0:
    return None
  model = compiled.model_flops / int(count)
  done = model * (4 / 3 if remat == 'full' else 1)
  times = max(1.0, done / compiled.flops)
  moved = sum(size for _, size in compiled.collectives.values())
  return Roofline(
    products=done / known.flops,
    memory=times * compiled.bytes / known.bandwidth,
    network=times * moved / known.links,
    model_flops=model,
    peak=known.flops,
  )
