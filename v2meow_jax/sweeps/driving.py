"""A sweep from its file to its table: reads it, runs what is missing, and keeps the page up to date."""

import argparse
import contextlib
import json
import pathlib
import time
from collections.abc import Iterator, Sequence

import gin
from v2meow_jax import errors, files, terminal
from v2meow_jax.experiment import configuration
from v2meow_jax.sweeps import halving, launchers, page, results, state, table
from v2meow_jax.sweeps.launchers import Launcher
from v2meow_jax.sweeps.results import Results
from v2meow_jax.sweeps.running import Runner
from v2meow_jax.sweeps.state import State
from v2meow_jax.sweeps.sweep import Sweep
from v2meow_jax.sweeps.trials import Trial, Work

PAGE_SECONDS = 10.0


def read(args: argparse.Namespace) -> Sweep:
  """The sweep that gin files and bindings say.

  Args:
    args: of `configuration.parse`.

  Raises:
    errors.ConfigError: what gin does not take, or what a sweep cannot be.
  """
  gin.clear_config()
  configuration.load(args, roots=('Sweep',))
  with configuration.built():
    return gin.get_configurable(Sweep)()


def states(found: Sequence[Trial], root: pathlib.Path) -> dict[str, State]:
  """The state of every piece of work; what is damaged has failed."""
  known = {}
  for work in unique(found):
    try:
      known[work.signature] = state.read(work.folder(root))
    except errors.ConfigError as error:
      known[work.signature] = State('failed', words=str(error))
  return known


def unique(found: Sequence[Trial]) -> list[Work]:
  """The work of all trials, each piece once, inputs first."""
  return list({work.signature: work for trial in found for work in trial.works.values()}.values())


@contextlib.contextmanager
def alone(root: pathlib.Path) -> Iterator[None]:
  """Around the work on a sweep: no other process may be at it.

  Raises:
    errors.ConfigError: another one is.
  """
  root.mkdir(parents=True, exist_ok=True)
  with launchers.locked(root / '.lock') as lock:
    if lock is None:
      raise errors.ConfigError(f'{root}: another v2meow sweep is at work there')
    yield


class Driver:
  """Runs a sweep and writes its table and page.

  Args:
    sweep, found: what is run.
    root: folder of the sweep.
    title: of the page.
    launcher: where work runs.
    jobs: pieces of work at once.
    retries: further attempts of what fails.
    flags: further ones of `v2meow train`.
  """

  def __init__(
    self,
    sweep: Sweep,
    found: Sequence[Trial],
    root: pathlib.Path,
    title: str,
    launcher: Launcher,
    jobs: int,
    retries: int,
    flags: Sequence[str] = (),
  ):
    self._sweep, self._trials, self._root, self._title = sweep, found, root, title
    self._progress = terminal.Progress(quiet=True)
    self._runner = Runner(root, launcher, jobs, retries, self._changed, self._progress.say, flags)
    self._left: dict[str, int] = {}  # combination -> step at which halving left it
    self._written = -PAGE_SECONDS
    self._seen: tuple = ()

  def run(self) -> Results:
    """Runs everything; what there is when it ends, also when it is interrupted, is in the folder."""
    self._runner.states |= states(self._trials, self._root)
    files.write_text(self._root / 'trials.json', json.dumps(self._index(), indent=2) + '\n')
    try:
      with self._progress:
        kept = self._halve() if self._sweep.halving else list(self._trials)
        self._runner.run(unique(kept))
    finally:
      found = self._collect(None)
      self._write(found)
    return found

  def _index(self) -> list[dict]:
    return [
      {
        'trial': trial.name,
        'seed': trial.seed,
        'choices': {name: choice.label for name, choice in trial.point.items()},
        'work': {
          name: str(work.folder(self._root).relative_to(self._root)) for name, work in trial.works.items()
        },
      }
      for trial in self._trials
    ]

  def _halve(self) -> list[Trial]:
    """Trains rung by rung; the trials that go on to the end."""
    how = self._sweep.halving
    assert how is not None
    kept = list(self._trials)
    first = self._sweep.baseline_point()
    lengths = {work.size.steps for work in unique(kept) if work.size is not None}
    if len(lengths) > 1:
      raise errors.ConfigError('Sweep.halving: all trials need the same number of steps')
    for step in halving.rungs(how, lengths.pop()):
      self._runner.run(unique(kept), step)
      found = self._collect(None)
      metric = halving.chosen_metric(how, found.metrics)
      if metric is None:
        raise errors.ConfigError('Sweep.halving: there is no metric to decide by; see Sweep.metrics')
      scores = self._scores(kept, metric, step)
      base = next(
        (t.combination for t in kept if all(c.label == first[n].label for n, c in t.point.items())), ''
      )
      names = halving.survivors(scores, how.factor, base, found.metrics[metric])
      self._left |= {name: step for name in scores if name not in names}
      kept = [trial for trial in kept if trial.combination in names]
      self._progress.say(f'step {step}: {len(names)} of {len(scores)} combinations go on')
    return kept

  def _scores(self, kept: Sequence[Trial], metric: str, step: int) -> dict[str, float]:
    """The mean over seeds of a metric as it was at a step, by combination."""
    values: dict[str, list[float]] = {}
    for trial in kept:
      for work in trial.works.values():
        measured = results.of_work(work, self._root).get(metric)
        at = dict(measured.curve).get(step) if measured else None
        values.setdefault(trial.combination, []).append(float('nan') if at is None else at)
    return {name: sum(found) / len(found) for name, found in values.items()}

  def _collect(self, running: Sequence[str] | None) -> Results:
    return results.collect(self._sweep, self._trials, self._runner, self._title, running, self._left)

  def _changed(self, running: Sequence[str]) -> None:
    works = unique(self._trials)
    known = [self._runner.states.get(work.signature, State()).state for work in works]
    note = ', '.join(running)[:60]
    self._progress.update('work', sum(one == 'done' for one in known), len(works), note)
    seen, now = tuple(known), time.monotonic()
    if seen != self._seen or now - self._written > PAGE_SECONDS:
      self._seen, self._written = seen, now
      self._write(self._collect(running))

  def _write(self, found: Results) -> None:
    page.write(self._root / 'index.html', found)
    table.write(self._root, found)
