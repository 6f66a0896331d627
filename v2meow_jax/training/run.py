"""A run under way: its state, its compiled step, and what is done with them between steps."""

import dataclasses
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

import gin
from v2meow_jax import errors, files
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import health, metrics
from v2meow_jax.training.checkpoints import Checkpoints
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.protocols import Batch, Batches, Sampler, Trainable, WarmStart


@gin.register
@dataclasses.dataclass(frozen=True)
class Settings:
  """How often a run does what.

  Attributes:
    total_steps: of the whole run.
    log_every, eval_every, checkpoint_every, sample_every: intervals in steps; 0: never (but at the end).
    log_minutes, eval_minutes, checkpoint_minutes: the same by the clock, besides; 0: never.
    eval_steps: batches of an evaluation, always the same ones.
    keep, keep_best, keep_hours: checkpoints kept: the latest, those of the lowest validation loss, and one in
      so many hours.
    profile_steps: (first, last) steps to trace.
    stop_after_seconds: stop as if interrupted after this time; None: never.
    hang_seconds: end the process after so long without progress; 0: never.
  """

  total_steps: int
  log_every: int = 20
  eval_every: int = 200
  eval_steps: int = 8
  checkpoint_every: int = 200
  sample_every: int = 0
  log_minutes: float = 0.0
  eval_minutes: float = 0.0
  checkpoint_minutes: float = 0.0
  keep: int = 2
  keep_best: int = 0
  keep_hours: float = 0.0
  profile_steps: tuple[int, int] | None = None
  stop_after_seconds: float | None = None
  hang_seconds: float = 1800.0

  def __post_init__(self):
    intervals = (self.log_every, self.eval_every, self.checkpoint_every, self.sample_every, *self.minutes)
    if self.total_steps < 1 or self.eval_steps < 1 or min(intervals) < 0:
      raise errors.ConfigError('total_steps and eval_steps must be at least 1, and no interval negative')
    if self.profile_steps is not None and not 0 < self.profile_steps[0] <= self.profile_steps[-1]:
      raise errors.ConfigError(f'profile_steps {self.profile_steps} is not (first, last)')

  @property
  def minutes(self) -> tuple[float, ...]:
    """Of logging, evaluation and saving."""
    return self.log_minutes, self.eval_minutes, self.checkpoint_minutes

  def due(self, every: int, step: int) -> bool:
    """Whether something that happens `every` so many steps happens after this one."""
    return step == self.total_steps or (every > 0 and step % every == 0)


def init_function(trainable: Trainable, guard: Guard) -> Callable:
  """(key, batch) -> the whole state of step 0."""
  return lambda rng, batch: {'trainable': trainable.init(rng, batch), 'guard': guard.init()}


def step_function(
  trainable: Trainable, guard: Guard, partitioner: Partitioner, shardings: Any, seed: int
) -> Any:
  """The jitted step (state, batch, number of the step, what hosts ask for) -> (state, metrics)."""

  def step(state, batch, number, asked):
    rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), number)
    state, row = guard.step(trainable.step, state, batch, rng)
    # One process alone asks for more than to stop, so that the largest is what it asked.
    return state, row | {'stop': (asked % 2).max(), 'due': (asked // 2).max()}

  return partitioner.jit(step, donate_argnums=0, out_shardings=(shardings, partitioner.replicated))


class Run:
  """See the module's docstring; `loop.train` makes one and drives it."""

  def __init__(
    self,
    run_dir: epath.PathLike,
    trainable: Trainable,
    batches: Batches,
    eval_batches: Batches | None,
    partitioner: Partitioner,
    settings: Settings,
    guard: Guard,
    sampler: Sampler | None,
    seed: int,
  ):
    self.run_dir = epath.Path(run_dir)
    self.trainable, self.batches, self.eval_batches = trainable, batches, eval_batches
    self.partitioner, self.settings, self.guard, self.sampler = partitioner, settings, guard, sampler
    self.main = jax.process_index() == 0
    self.clock = health.Clock()
    for source in filter(None, (batches, eval_batches)):
      partitioner.check_batch(source.batch_size, trainable.microbatches if source is batches else 1)
    self.rows = partitioner.local_rows(batches.batch_size)
    if eval_batches is not None:
      eval_batches.describe()  # what is wrong with them is told now, and not at the first evaluation
    with self.clock.spending('data'):
      local = next(batches.start(0, self.rows))
    self.example = _widened(local, batches.batch_size)
    root = jax.random.key(seed)
    self.init_args = (jax.random.fold_in(root, 0), self.example)
    self._first = local
    self.seed = seed
    self.rewinds = 0
    self.evaluated: tuple[int, dict[str, float]] = (-1, {})  # step and metrics of the last evaluation

  def open(self, warm_start: WarmStart | None, started: Callable[[int], None] | None) -> None:
    """Finds the state to begin with: of a checkpoint, of a warm start, or a fresh one."""
    settings = self.settings
    self.run_dir.mkdir(parents=True, exist_ok=True)
    self.checkpoints = Checkpoints(self.run_dir, settings.keep, settings.keep_best, settings.keep_hours)
    self.shardings, _ = self.partitioner.state_sharding(self._init(self.trainable), *self.init_args)
    with self.clock.spending('start'):
      if self.checkpoints.latest() is not None:
        self._restore()
      else:
        first = self.partitioner.shard(self._first, self.batches.batch_size)
        self.state, _ = self.partitioner.init(self._init(self.trainable), self.init_args[0], first)
        self.step = self.position = 0
        if warm_start is not None:
          state, report = warm_start(self.trainable, self.state['trainable'], self.partitioner.jit)
          self.state = self.state | {'trainable': state}
          if self.main:
            files.write_text(self.run_dir / 'warm_start.txt', f'{report}\n')
            print(report, file=sys.stderr)
    if started is not None:
      started(self.step)
    # Only now: a run of another architecture keeps its own description.
    if self.main:
      about = self.trainable.describe() | {'data': self.batches.describe()}
      files.write_text(self.run_dir / 'model.json', json.dumps(about, indent=2) + '\n')

  def _init(self, trainable: Trainable) -> Callable:
    return init_function(trainable, self.guard)

  def _restore(self, before: int | None = None) -> None:
    """Takes up the newest whole checkpoint, or that before a step, whichever layout it is in."""

    def abstract(layout: str):
      init = self._init(self.trainable.with_layout(layout))
      return self.partitioner.state_sharding(init, *self.init_args)[1]

    state, about = self.checkpoints.restore(abstract, before=before)
    if about['layout'] != self.trainable.layout:
      turn = lambda tree: self.trainable.relayout(tree, self.trainable.layout)  # noqa: E731
      state = self.partitioner.jit(turn, out_shardings=self.shardings)(state)
    self.state, self.step, self.position = state, about['step'], about['position']
    self.rewinds = about['rewinds']

  def compile(self) -> None:
    """Compiles the step and the evaluation, so that what follows is steps."""
    jitted = step_function(self.trainable, self.guard, self.partitioner, self.shardings, self.seed)
    with self.clock.spending('compile'):
      batch = self.partitioner.shard(self._place_holder(), self.batches.batch_size)
      lowered = jitted.lower(self.state, batch, np.int32(0), self.asked(False))
      # What processes that differ unseen, by a version of a library for instance, differ in.
      self.program = lowered.as_text() if jax.process_count() > 1 else ''
      self.train_step = lowered.compile(compiler_options=dict(self.partitioner.compiler_options))
    self.evaluate_step = self.partitioner.jit(self.trainable.evaluate)

  def _place_holder(self) -> Batch:
    return {name: np.zeros((len(self.rows), *x.shape[1:]), x.dtype) for name, x in self.example.items()}

  def asked(self, stop: bool, due: int = 0) -> jax.Array | np.ndarray:
    """What this host asks for, as part of the step: all hosts then learn it at the same one.

    Args:
      stop: that the run stops.
      due: bits of what the clock says is due; of the first process only.
    """
    asked = int(stop) + 2 * due
    if jax.process_count() == 1:
      return np.full(1, asked, np.int32)
    sharding = jax.sharding.NamedSharding(
      self.partitioner.mesh, jax.sharding.PartitionSpec(self.partitioner.mesh.axis_names)
    )
    size = self.partitioner.mesh.size
    return jax.make_array_from_callback((size,), sharding, lambda _: np.full(1, asked, np.int32))

  def evaluate(self) -> dict[str, float]:
    """Weighted mean of the metrics over the first batches of the evaluation data."""
    source = self.eval_batches
    assert source is not None
    rows = self.partitioner.local_rows(source.batch_size)
    found = [
      jax.device_get(
        self.evaluate_step(self.state['trainable'], self.partitioner.shard(batch, source.batch_size))
      )
      for batch in itertools.islice(source.start(0, rows), self.settings.eval_steps)
    ]
    scalars = metrics.mean(found, [float(row.pop('weight')) for row in found])
    self.evaluated = (self.step, scalars)
    return scalars

  def sample(self, show: Callable[[int, epath.Path], None]) -> None:
    """Lets the sampler write what the weights of now make, and shows it; all hosts gather, one writes."""
    gather = self.partitioner.jit(self.trainable.weights, out_shardings=self.partitioner.replicated)
    weights = gather(self.state['trainable'])
    if self.main and self.sampler is not None:
      directory = self.run_dir / 'samples' / f'step_{self.step}'
      directory.mkdir(parents=True, exist_ok=True)
      try:
        self.sampler(self.trainable.describe(), jax.device_get(weights), directory)
        show(self.step, directory)
      except (OSError, errors.InputError) as error:
        warnings.warn(f'{directory}: no sample was made: {error}', stacklevel=2)

  def save(self) -> None:
    """Saves state and position in the background."""
    at, found = self.evaluated
    scores = found if at == self.step else None
    layout = self.trainable.layout
    self.checkpoints.save(self.step, self.state, self.position, layout, scores, self.rewinds)

  def rewind(self, step: int, position: int, alarms: Sequence[str] = ()) -> None:
    """Goes back to before the bad step `step`, whose batch began at `position`, and on with later data.

    Args:
      step, position: of the first bad step.
      alarms: names of those that were raised.

    Raises:
      errors.InputError: it did so often enough, or has nowhere to go; the batch is kept in a file.
    """
    earlier = self.checkpoints.has(before=step)
    if alarms:
      why = f'as there was an alarm of {" and ".join(alarms)}'
    else:
      why = 'as the loss or its gradient was not finite or exploded'
    if self.rewinds >= self.guard.rewinds or not earlier:
      batch = next(self.batches.start(position, self.rows))
      path = self.run_dir / f'bad_batch_step_{step}_host_{jax.process_index()}.npz'
      with path.open('wb') as file:
        np.savez(file, **batch)
      raise errors.InputError(
        f'{self.run_dir}: {self.guard.patience} steps in a row from step {step} on were skipped, {why}; '
        f'lower the learning rate; the batch of that step is in {path.name}, and the last checkpoint is kept'
      )
    rewinds, onward = self.rewinds + 1, self.position
    self.checkpoints.wait()
    self._restore(before=step)
    self.rewinds, self.position = rewinds, onward
    if self.main:
      warnings.warn(
        f'{self.run_dir}: {self.guard.patience} bad steps in a row from step {step} on, {why}; '
        f'going back to step {self.step}, on with example {onward}',
        stacklevel=2,
      )


def _widened(batch: Batch, size: int) -> Batch:
  """The shapes of a batch of another size."""
  return {name: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype) for name, x in batch.items()}
