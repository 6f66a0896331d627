"""What trials came to: metrics of their runs and reports, by combination and over seeds."""

import dataclasses
import fnmatch
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from v2meow_jax.sweeps import statistics
from v2meow_jax.sweeps.running import Runner
from v2meow_jax.sweeps.state import State
from v2meow_jax.sweeps.statistics import Estimate
from v2meow_jax.sweeps.sweep import Sweep, Train
from v2meow_jax.sweeps.trials import Trial, Work


@dataclasses.dataclass(frozen=True)
class Measured:
  """A metric of one piece of work.

  Attributes:
    final: its last value.
    curve: (step, value) of a training run; empty elsewhere.
    interval: that a report gives, over clips for instance.
    better: `lower` or `higher`, where a report says it.
  """

  final: float
  curve: tuple[tuple[int, float], ...] = ()
  interval: tuple[float, float] | None = None
  better: str = ''

  def best(self, more: bool) -> float:
    """The best value on the way."""
    values = [value for _, value in self.curve if math.isfinite(value)]
    return (max if more else min)(values) if values else self.final


def of_run(folder: pathlib.Path, split: str = 'validation') -> dict[str, Measured]:
  """Metrics of a run's `metrics.jsonl`, as `validation/loss`; half-written lines are passed over."""
  found: dict[str, list[tuple[int, float]]] = {}
  path = folder / 'metrics.jsonl'
  for line in path.read_text(errors='replace').splitlines() if path.exists() else ():
    try:
      row = json.loads(line)
      step = int(row['step'])
      if row['split'] != split:
        continue
    except (ValueError, KeyError, TypeError):
      continue
    for name, value in row.items():
      if name not in ('step', 'split', 'time') and isinstance(value, int | float):
        found.setdefault(f'{split}/{name}', []).append((step, float(value)))
  return {name: Measured(curve[-1][1], tuple(curve)) for name, curve in found.items()}


def of_report(path: pathlib.Path) -> dict[str, Measured]:
  """Numbers of a JSON file by their place in it, as `coarse/nats_a_token`; none of a damaged one.

  Where it has `metrics`, as the reports of `v2meow evaluate`, those alone. `{"value": x, "interval": [low,
  high], "better": "lower"}` is one number with its interval; lists are passed over.
  """
  try:
    told = json.loads(path.read_text())
    return dict(_numbers(told.get('metrics', told) if isinstance(told, dict) else told, ''))
  except (OSError, ValueError, RecursionError):
    return {}


def _numbers(value: Any, name: str) -> Iterator[tuple[str, Measured]]:
  if isinstance(value, bool):
    return
  if isinstance(value, int | float):
    yield name, Measured(float(value))
  elif isinstance(value, dict):
    if isinstance(value.get('value'), int | float) and 'interval' in value:
      edges = value['interval']
      there = isinstance(edges, list) and len(edges) == 2 and None not in edges
      interval = (float(edges[0]), float(edges[1])) if there else None
      yield name, Measured(float(value['value']), (), interval, str(value.get('better') or ''))
      return
    for key, inner in value.items():
      yield from _numbers(inner, f'{name}/{key}' if name else key)


def of_work(work: Work, root: pathlib.Path) -> dict[str, Measured]:
  """Metrics of a piece of work, as `STEP/validation/loss`."""
  out, step = work.output(root), work.step
  if isinstance(step, Train):
    found = of_run(out)
  else:
    found = of_report(out if out.suffix == '.json' else out / 'report.json')
  return {f'{step.name}/{name}': value for name, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Cell:
  """A metric of a combination.

  Attributes:
    final, best: over seeds; of a single seed with the interval of its report, if it has one.
    difference: of the final values from the baseline's, paired by seed; None: of the baseline itself.
  """

  final: Estimate
  best: Estimate
  difference: Estimate | None


@dataclasses.dataclass(frozen=True)
class Row:
  """A combination.

  Attributes:
    labels: axis -> label.
    baseline: whether others are compared with it.
    done, trials: how many of its trials are done, and how many it has.
    stopped_at: the step at which halving left it; None: it went on.
    cells: by metric.
    curves: metric -> seed -> curve.
    parameters: of its training runs together; None: it has none.
    steps, tokens: of its training runs together, of one seed.
    flops: of one seed's training; None: unknown.
    seconds: of one seed, on the average.
    failures: words of what failed.
  """

  labels: Mapping[str, str]
  baseline: bool
  done: int
  trials: int
  stopped_at: int | None
  cells: Mapping[str, Cell]
  curves: Mapping[str, Mapping[int, tuple[tuple[int, float], ...]]]
  parameters: int | None
  steps: int
  tokens: int
  flops: float | None
  seconds: float
  failures: tuple[str, ...]

  @property
  def name(self) -> str:
    """What differs."""
    return ' '.join(f'{axis}={label}' for axis, label in self.labels.items()) or 'the one'


@dataclasses.dataclass(frozen=True)
class Results:
  """The table of a sweep.

  Attributes:
    title: of the sweep.
    metrics: name -> whether more is better, in order.
    rows: by combination.
    seeds: of every combination.
    running: names of the work under way; None: nothing runs any more.
    states: how many pieces of work are in each state.
  """

  title: str
  metrics: Mapping[str, bool]
  rows: tuple[Row, ...]
  seeds: tuple[int, ...]
  running: tuple[str, ...] | None
  states: Mapping[str, int]


def collect(
  sweep: Sweep,
  trials: Sequence[Trial],
  runner: Runner,
  title: str,
  running: Sequence[str] | None = None,
  left: Mapping[str, int] | None = None,
) -> Results:
  """What there is so far.

  Args:
    sweep, trials: what was to be run.
    runner: knows the states, and where it lies.
    title: of the sweep.
    running: names of the work under way; None: the sweep has ended.
    left: combinations that halving left, and at which step.
  """
  works = {work.signature: work for trial in trials for work in trial.works.values()}
  measured = {key: of_work(work, runner.root) for key, work in works.items()}
  of_trial = {id(trial): _joined(trial, measured) for trial in trials}
  metrics = _shown(sweep, of_trial.values())
  groups: dict[str, list[Trial]] = {}
  for trial in trials:
    groups.setdefault(trial.combination, []).append(trial)
  first = sweep.baseline_point()
  base = next((group for group in groups.values() if _is_point(group[0], first)), [])
  rows = []
  for name, group in groups.items():
    cells, curves = {}, {}
    for metric, more in metrics.items():
      here = {t.seed: of_trial[id(t)][metric] for t in group if metric in of_trial[id(t)]}
      if here:
        there = {t.seed: of_trial[id(t)][metric].final for t in base if metric in of_trial[id(t)]}
        cells[metric] = _cell(here, there if group is not base else None, more)
        curves[metric] = {seed: value.curve for seed, value in here.items() if value.curve}
    rows.append(_row(group, group is base, cells, curves, runner, (left or {}).get(name)))
  counts: dict[str, int] = {}
  for key in works:
    found = runner.states.get(key, State()).state
    counts[found] = counts.get(found, 0) + 1
  return Results(
    title, metrics, tuple(rows), tuple(sweep.seeds), None if running is None else tuple(running), counts
  )


def _is_point(trial: Trial, point: Mapping[str, Any]) -> bool:
  return all(choice.label == point[name].label for name, choice in trial.point.items())


def _joined(trial: Trial, measured: Mapping[str, dict[str, Measured]]) -> dict[str, Measured]:
  joined: dict[str, Measured] = {}
  for work in trial.works.values():
    joined |= measured[work.signature]
  return joined


def _shown(sweep: Sweep, found: Any) -> dict[str, bool]:
  """Metrics that match a pattern of the sweep, in the patterns' order -> whether more is better."""
  known = {name: value for trial in found for name, value in trial.items()}
  chosen: dict[str, bool] = {}
  for pattern in sweep.metrics:
    for name, value in known.items():
      if fnmatch.fnmatchcase(name, pattern) and name not in chosen:
        told = any(fnmatch.fnmatchcase(name, one) for one in sweep.maximize)
        chosen[name] = told or value.better == 'higher'
  return chosen


def _cell(here: Mapping[int, Measured], there: Mapping[int, float] | None, more: bool) -> Cell:
  final = statistics.over_seeds([value.final for value in here.values()])
  if len(here) == 1 and (interval := next(iter(here.values())).interval) is not None:
    final = dataclasses.replace(final, low=interval[0], high=interval[1])
  best = statistics.over_seeds([value.best(more) for value in here.values()])
  if there is None:
    return Cell(final, best, None)
  pairs = [value.final - there[seed] for seed, value in here.items() if seed in there]
  return Cell(final, best, statistics.over_seeds(pairs) if pairs else None)


def _row(
  group: Sequence[Trial],
  baseline: bool,
  cells: dict[str, Cell],
  curves: dict[str, Any],
  runner: Runner,
  stopped_at: int | None,
) -> Row:
  sizes = [work.size for work in group[0].works.values() if work.size is not None]
  flops = [size.flops * size.steps for size in sizes if size.flops]
  known = [[runner.states.get(w.signature, State()) for w in trial.works.values()] for trial in group]
  words = [
    f'{work.name}: {found.words}'
    for trial, states in zip(group, known, strict=True)
    for work, found in zip(trial.works.values(), states, strict=True)
    if found.state == 'failed'
  ]
  return Row(
    labels={name: choice.label for name, choice in group[0].point.items()},
    baseline=baseline,
    done=sum(all(found.done(stopped_at) for found in states) for states in known),
    trials=len(group),
    stopped_at=stopped_at,
    cells=cells,
    curves=curves,
    parameters=sum(size.parameters for size in sizes) if sizes else None,
    steps=sum(size.steps for size in sizes),
    tokens=sum(size.steps * size.tokens for size in sizes),
    flops=sum(flops) if flops and len(flops) == len(sizes) else None,
    seconds=sum(found.seconds for states in known for found in states) / len(group),
    failures=tuple(dict.fromkeys(words)),
  )
