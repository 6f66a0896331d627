"""How long generation will take and how much memory it needs, told before it starts."""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from v2meow_jax import stages
from v2meow_jax.generation import guidance, windows
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.sampling import Sampling

# What a layer's step costs beyond reading its weights: norms, attention, many small operations.
LAYER_SECONDS = {'cpu': 1e-4, 'gpu': 4e-5, 'tpu': 4e-5}
# Of a stage's two programs, without a cache of compiled ones.
COMPILE_SECONDS = (2.0, 0.4)  # fixed, and a layer
PROBE = 2048  # side of a square matrix whose product with a few rows is timed


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What lies ahead.

  Attributes:
    steps: by stage, of the decode loop, one after the other.
    seconds: of decoding on this machine, compiled programs at hand; right within a factor of two or so.
    compiling: seconds more where they are not.
    memory: bytes of weights and of the greatest cache.
  """

  steps: dict[str, int]
  seconds: float
  compiling: float
  memory: int

  def __str__(self) -> str:
    steps = ', '.join(f'{name} {count:,}' for name, count in self.steps.items())
    return (
      f'about {_time(self.seconds)} (and {_time(self.compiling)} of compiling the first time), '
      f'{self.memory / 2**30:.2g} GiB of memory; steps: {steps}'
    )


def _time(seconds: float) -> str:
  return f'{seconds:.0f} s' if seconds < 120 else f'{seconds / 60:.0f} min'


def estimate(
  runners: Sequence[StageRunner],
  samplings: Sequence[Sampling],
  durations: Sequence[Fraction],
  given: set[str],
  rows: int,
) -> Estimate:
  """The estimate for pieces that are decoded side by side.

  Args:
    runners, samplings: the stages, and how each draws.
    durations: of the pieces, in seconds.
    given: groups of conditions that there is something for.
    rows: most windows at once.
  """
  platform = jax.default_backend()
  steps, seconds, compiling, weights, cache = {}, 0.0, 0.0, 0, 0
  speed: dict[tuple[int, str], float] = {}
  for runner, sampling in zip(runners, samplings, strict=True):
    stage, config = runner.stage, runner.model.config
    branches = len(guidance.branches(stage, sampling, given).weights)
    most = max(1, rows // branches)
    layouts = [windows.layout(stage, duration, sampling.overlap) for duration in durations]
    # (frames that are known, frames) of every batch that is run.
    batches: list[tuple[int, int]] = []
    widest = 1
    if layouts[0].independent:
      count = sum(len(layout.windows) for layout in layouts)
      widest = min(most, count)
      longest = max(w.stop - w.first for layout in layouts for w in layout.windows)
      batches += [(0, longest)] * math.ceil(count / most)
    else:
      for number in range(max(len(layout.windows) for layout in layouts)):
        there = [layout.windows[number] for layout in layouts if number < len(layout.windows)]
        widest = max(widest, min(most, len(there)))
        known = layouts[0].carried if number else 0
        batches += [(known, max(w.stop - w.first for w in there))] * math.ceil(len(there) / most)
    own = sum(
      stages.steps_of(stage.target, frames) - stages.steps_of(stage.target, known)
      for known, frames in batches
    )
    width = branches * widest
    key = (width, config.dtype)
    if key not in speed:
      speed[key] = _seconds_a_byte(*key)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(runner.params))
    steps[stage.name] = own
    seconds += own * (size * speed[key] + LAYER_SECONDS.get(platform, 1e-4) * config.layers)
    compiling += (1 + (len(batches) > 1)) * (COMPILE_SECONDS[0] + COMPILE_SECONDS[1] * config.layers)
    weights += size
    element = jnp.dtype(config.dtype).itemsize
    length = stage.prefix_length + stage.steps
    cache = max(cache, 2 * width * length * config.width * config.layers * element)
  return Estimate(steps, seconds, compiling, weights + cache)


def _seconds_a_byte(rows: int, dtype: str) -> float:
  """Measured: a product of `rows` vectors with a matrix, over the matrix's bytes."""
  # NumPy's ones and the bare product: each of JAX's functions would first be compiled, while the user waits.
  matrix, vectors = (jax.device_put(np.ones((n, PROBE), jnp.dtype(dtype))) for n in (PROBE, rows))
  product = jax.jit(functools.partial(jax.lax.dot, preferred_element_type=jnp.float32))
  product(vectors, matrix).block_until_ready()
  times = []
  for _ in range(5):
    began = time.perf_counter()
    product(vectors, matrix).block_until_ready()
    times.append(time.perf_counter() - began)
  return float(np.median(times)) / matrix.nbytes
