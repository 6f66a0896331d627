"""What a sweep would run: its trials with their size, FLOPs and the time that they would take here."""

import pathlib
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from v2meow_jax.experiment import planning
from v2meow_jax.sweeps import table
from v2meow_jax.sweeps.state import State
from v2meow_jax.sweeps.trials import Trial, Work
from v2meow_jax.training.devices import peak_flops

_SIDE = 1024  # of the products by which a machine that is in no table is measured


def flops(work: Work) -> float | None:
  """Model FLOPs of a training run; None where there is no formula, or no training."""
  size = work.size
  return size.flops * size.steps if size is not None and size.flops else None


def speed_here() -> float:
  """FLOP/s that training is expected to attain here: `planning.ATTAINED` of the peak.

  The peak is that of the table, or what a float32 product of matrices attains.
  """
  devices = jax.local_devices()
  peak = peak_flops(devices[0].device_kind)
  if peak is None:
    product = jax.jit(lambda a: a @ a)
    matrix = jnp.ones((_SIDE, _SIDE))
    product(matrix).block_until_ready()
    times = []
    for _ in range(5):
      began = time.perf_counter()
      product(matrix).block_until_ready()
      times.append(time.perf_counter() - began)
    return planning.ATTAINED * 2 * _SIDE**3 / min(times)
  return planning.ATTAINED * peak * len(devices)


def measured_speed(works: Sequence[Work], states: Mapping[str, State]) -> dict[str, float]:
  """FLOP/s of what was trained here before, with all its starts and evaluations, by step."""
  found: dict[str, list[float]] = {}
  for work in works:
    known, count = states.get(work.signature, State()), flops(work)
    if known.done() and known.seconds and count:
      found.setdefault(work.step.name, []).append(count / known.seconds)
  return {name: sum(rates) / len(rates) for name, rates in found.items()}


def tell(trials: Sequence[Trial], states: Mapping[str, State], root: pathlib.Path, speed: float) -> list[str]:
  """Lines: a trial each, and what is left to be done.

  Args:
    trials: of the sweep.
    states: by the work's signature.
    root: of the sweep.
    speed: FLOP/s expected here, for steps of which none has been done.
  """
  works = list({work.signature: work for trial in trials for work in trial.works.values()}.values())
  rates = measured_speed(works, states)

  def seconds(work: Work) -> float | None:
    count = flops(work)
    return count / rates.get(work.step.name, speed) if count else None

  heads = ['trial', 'parameters', 'steps', 'tokens', 'FLOPs', 'time here', 'to do']
  lines = [heads]
  for trial in trials:
    sized = [work for work in trial.works.values() if work.size is not None]
    sizes = [work.size for work in sized if work.size is not None]
    counts = [flops(work) for work in sized]
    times = [seconds(work) for work in sized]
    left = [work.step.name for work in trial.works.values() if not states[work.signature].done()]
    lines.append([
      trial.name,
      f'{sum(size.parameters for size in sizes) / 1e6:.2f}M',
      '+'.join(str(size.steps) for size in sizes),
      f'{sum(size.tokens * size.steps for size in sizes):.3g}',
      _sum(counts, '{:.3g}'.format),
      _sum(times, table.duration),
      'nothing' if not left else ' '.join(left) if len(trial.works) > 1 else 'all',
    ])  # fmt: skip
  widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
  told = [
    '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
  ]
  left = [work for work in works if not states[work.signature].done()]
  times = [seconds(work) for work in left if work.size is not None]
  shared = sum(len(trial.works) for trial in trials) - len(works)
  basis = 'by what was trained here before' if rates else f'at {speed / 1e9:.3g} GFLOP/s'
  told.append(
    f'{len(trials)} trials, {len(works)} pieces of work ({shared} shared), {len(left)} of them to be done; '
    f'training takes {_sum(times, table.duration) or "no time"} one after the other, {basis}'
  )
  told.append(f'folder: {root}')
  return told


def _sum(values: Sequence[float | None], form) -> str:
  known = [value for value in values if value is not None]
  unknown = len(known) < len(values)
  return (form(sum(known)) if known else '') + (' and more' if known else '?') * unknown
