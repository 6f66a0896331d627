"""Where a run's wall time goes, and how fast it is."""

import contextlib
import math
import time
from collections.abc import Iterator

import jax

from v2meow_jax.training.devices import peak_flops


class Clock:
  """Wall time by what it is spent on; what is not named is spent in steps."""

  def __init__(self):
    self._began = time.monotonic()
    self.spent: dict[str, float] = {}

  @contextlib.contextmanager
  def spending(self, on: str) -> Iterator[None]:
    """Counts the time within."""
    start = time.monotonic()
    try:
      yield
    finally:
      self.spent[on] = self.spent.get(on, 0.0) + time.monotonic() - start

  def add(self, on: str, seconds: float) -> None:
    """Counts time that was measured elsewhere."""
    self.spent[on] = self.spent.get(on, 0.0) + seconds

  @property
  def wall(self) -> float:
    """Seconds since the start."""
    return time.monotonic() - self._began

  @property
  def goodput(self) -> float:
    """Share of the wall time spent in steps that counted."""
    return max(0.0, 1.0 - sum(self.spent.values()) / max(self.wall, 1e-9))


class Speedometer:
  """Rates over the steps since the last reading.

  Model FLOPs utilisation is `trainable.flops(batch)` / (seconds a step x devices x peak of a device).

  Args:
    clock: of the run.
    tokens: predicted in a step.
    flops: model FLOPs of a step; None: no utilisation.
    devices: that share the work.
  """

  def __init__(self, clock: Clock, tokens: int, flops: float | None, devices: list[jax.Device]):
    self._clock, self._tokens, self._flops = clock, tokens, flops
    peak = peak_flops(devices[0].device_kind)
    self._peak = None if peak is None else peak * len(devices)
    self.read(1)

  def read(self, steps: int) -> dict[str, float]:
    """Scalars over the `steps` since the last reading."""
    clock = self._clock
    now, spent = clock.wall, dict(clock.spent)
    scalars = {}
    if hasattr(self, '_last'):
      then, before = self._last
      waited = spent.get('data', 0.0) - before.get('data', 0.0)
      idle = sum(spent.values()) - sum(before.values())
      seconds = max(now - then - (idle - waited), 1e-9)  # data wait is part of what a step takes
      scalars = {
        'seconds_per_step': seconds / steps,
        'tokens_per_second': self._tokens * steps / seconds,
        'data_wait': waited / seconds,
        'goodput': clock.goodput,
      }
      if self._flops and self._peak and math.isfinite(self._flops):
        scalars['mfu'] = self._flops * steps / seconds / self._peak
    self._last = (now, spent)
    return scalars
