"""What accelerators can do at most, by the names that JAX and people give them; makers' data sheets."""

import re
from typing import NamedTuple


class Limits(NamedTuple):
  """Of one device.

  Attributes:
    flops: peak of dense bfloat16 products, FLOP/s.
    bandwidth: of its memory, bytes a second.
    links: to its neighbours all together, one way, bytes a second.
    memory: GiB.
  """

  flops: float
  bandwidth: float
  links: float
  memory: int


# By how people call it; then how JAX names it, where that is another name.
LIMITS = {
  'v5e': Limits(197e12, 819e9, 200e9, 16),
  'v5p': Limits(459e12, 2765e9, 600e9, 95),
  'v6e': Limits(918e12, 1640e9, 448e9, 32),
  'v4': Limits(275e12, 1228e9, 300e9, 32),
  'A100': Limits(312e12, 2039e9, 300e9, 80),
  'H100': Limits(989e12, 3350e9, 450e9, 80),
  'H200': Limits(989e12, 4800e9, 450e9, 141),
  'B200': Limits(2250e12, 8000e9, 900e9, 180),
  'L4': Limits(121e12, 300e9, 32e9, 24),
}
_CALLED = {'v5 lite': 'v5e', 'v6 lite': 'v6e', 'v5': 'v5p'}


def limits(device_kind: str) -> Limits | None:
  """Those of a device by its name, or by one that holds its name as a word; None where it is not known."""
  for name in (*LIMITS, *_CALLED):
    if re.search(rf'\b{name}\b', device_kind):
      return LIMITS[_CALLED.get(name, name)]
  return None


def peak_flops(device_kind: str) -> float | None:
  """Peak of dense bfloat16 products of a device in FLOP/s; None where it is not known."""
  found = limits(device_kind)
  return None if found is None else found.flops
