"""The training loop: feeds steps, evaluates, records, saves, and stops when asked to."""

import collections
import dataclasses
import itertools
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from v2meow_jax import errors
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import distributed, health, metrics
from v2meow_jax.training.checkpoints import Checkpoints
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.prefetch import prefetch
from v2meow_jax.training.protocols import Batch, Batches, Sampler, Trainable, WarmStart
from v2meow_jax.training.signals import Signals

# Steps that are dispatched before the metrics of the first of them are looked at.
AHEAD = 2
# Steps of a profiler trace that SIGUSR1 asks for.
TRACED = 5


class Interrupted(Exception):
  """The run was asked to stop; its state is saved and it can be resumed."""


@dataclasses.dataclass(frozen=True)
class Settings:
  """How often a run does what, in steps unless said otherwise.

  Attributes:
    total_steps: of the whole run.
    log_every, eval_every, checkpoint_every, sample_every: intervals; 0: never (but at the end).
    eval_steps: batches of an evaluation, always the same ones.
    keep, keep_best, keep_hours: see `Checkpoints`.
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
  keep: int = 2
  keep_best: int = 0
  keep_hours: float = 0.0
  profile_steps: tuple[int, int] | None = None
  stop_after_seconds: float | None = None
  hang_seconds: float = 1800.0

  def __post_init__(self):
    intervals = (self.log_every, self.eval_every, self.checkpoint_every, self.sample_every)
    if self.total_steps < 1 or self.eval_steps < 1 or min(intervals) < 0:
      raise errors.ConfigError('total_steps and eval_steps must be at least 1, and no interval negative')
    if self.profile_steps is not None and not 0 < self.profile_steps[0] <= self.profile_steps[-1]:
      raise errors.ConfigError(f'profile_steps {self.profile_steps} is not (first, last)')

  def due(self, every: int, step: int) -> bool:
    """Whether something that happens `every` so many steps happens after this one."""
    return step == self.total_steps or (every > 0 and step % every == 0)


def init_function(trainable: Trainable, guard: Guard) -> Callable:
  """(key, batch) -> the whole state of step 0."""
  return lambda rng, batch: {'trainable': trainable.init(rng, batch), 'guard': guard.init()}


def step_function(
  trainable: Trainable, guard: Guard, partitioner: Partitioner, shardings: Any, seed: int
) -> Any:
  """The jitted step (state, batch, number of the step, hosts that ask to stop) -> (state, metrics)."""

  def step(state, batch, number, asked):
    rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), number)
    state, row = guard.step(trainable.step, state, batch, rng)
    return state, row | {'stop': asked.max()}

  return partitioner.jit(step, donate_argnums=0, out_shardings=(shardings, partitioner.replicated))


class Run:
  """A run under way. `train` is how to use it."""

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
    with self.clock.spending('data'):
      local = next(batches.start(0, self.rows))
    self.example = _widened(local, batches.batch_size)
    root = jax.random.key(seed)
    self.init_args = (jax.random.fold_in(root, 0), _widened(local, 1, zeros=True))
    self.seed = seed
    self.rewinds, self.evaluated = 0, None

  def open(self, warm_start: WarmStart | None, started: Callable[[], None] | None) -> None:
    """Finds the state to begin with: of a checkpoint, of a warm start, or a fresh one."""
    settings = self.settings
    self.run_dir.mkdir(parents=True, exist_ok=True)
    self.checkpoints = Checkpoints(self.run_dir, settings.keep, settings.keep_best, settings.keep_hours)
    self.shardings, _ = self.partitioner.state_sharding(self._init(self.trainable), *self.init_args)
    with self.clock.spending('start'):
      if self.checkpoints.latest() is not None:
        self._restore()
      else:
        self.state, _ = self.partitioner.init(self._init(self.trainable), *self.init_args)
        self.step = self.position = 0
        if warm_start is not None:
          state, report = warm_start(self.trainable, self.state['trainable'], self.partitioner.jit)
          self.state = self.state | {'trainable': state}
          if self.main:
            (self.run_dir / 'warm_start.txt').write_text(f'{report}\n')
            print(report, file=sys.stderr)
    # Only now: a run of another architecture keeps its own description.
    if self.main:
      about = self.trainable.describe() | {'data': self.batches.describe()}
      (self.run_dir / 'model.json').write_text(json.dumps(about, indent=2) + '\n')
      if started is not None:
        started()

  def _init(self, trainable: Trainable) -> Callable:
    return init_function(trainable, self.guard)

  def _restore(self) -> None:
    """Takes up the newest whole checkpoint, whichever layout it is in."""

    def abstract(layout: str):
      init = self._init(self.trainable.with_layout(layout))
      return self.partitioner.state_sharding(init, *self.init_args)[1]

    state, about = self.checkpoints.restore(abstract)
    if about['layout'] != self.trainable.layout:
      turn = lambda tree: self.trainable.relayout(tree, self.trainable.layout)  # noqa: E731
      state = self.partitioner.jit(turn, out_shardings=self.shardings)(state)
    self.state, self.step, self.position = state, about['step'], about['position']

  def compile(self) -> None:
    """Compiles the step and the evaluation, so that what follows is steps."""
    jitted = step_function(self.trainable, self.guard, self.partitioner, self.shardings, self.seed)
    with self.clock.spending('compile'):
      batch = self.partitioner.shard(self._place_holder(), self.batches.batch_size)
      self.train_step = jitted.lower(self.state, batch, np.int32(0), self._asked(False)).compile()
    self.evaluate_step = self.partitioner.jit(self.trainable.evaluate)

  def _place_holder(self) -> Batch:
    return {name: np.zeros((len(self.rows), *x.shape[1:]), x.dtype) for name, x in self.example.items()}

  def _asked(self, stop: bool) -> jax.Array | np.ndarray:
    """Whether this host was asked to stop, as part of the step: all hosts then learn it at the same one."""
    if jax.process_count() == 1:
      return np.zeros(1, np.int32)
    sharding = jax.sharding.NamedSharding(
      self.partitioner.mesh, jax.sharding.PartitionSpec(self.partitioner.mesh.axis_names)
    )
    size = self.partitioner.mesh.size
    return jax.make_array_from_callback((size,), sharding, lambda _: np.full(1, stop, np.int32))

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
    return metrics.mean(found, [float(row.pop('weight')) for row in found])

  def sample(self) -> None:
    """Lets the sampler write what the weights of now make; all hosts gather them, one writes."""
    gather = self.partitioner.jit(self.trainable.weights, out_shardings=self.partitioner.replicated)
    weights = gather(self.state['trainable'])
    if self.main and self.sampler is not None:
      directory = self.run_dir / 'samples' / f'step_{self.step}'
      directory.mkdir(parents=True, exist_ok=True)
      try:
        self.sampler(self.trainable.describe(), jax.device_get(weights), directory)
      except (OSError, errors.InputError) as error:
        warnings.warn(f'{directory}: no sample was made: {error}', stacklevel=2)

  def save(self) -> None:
    """Saves state and position in the background."""
    self.checkpoints.save(self.step, self.state, self.position, self.trainable.layout, self.evaluated)

  def rewind(self, first_bad: tuple[int, int]) -> None:
    """Goes back to the last checkpoint and on with the data that comes next, or gives up."""
    step, position = first_bad
    if self.rewinds == self.guard.rewinds or self.checkpoints.latest() is None:
      batch = next(self.batches.start(position, self.rows))
      path = self.run_dir / f'bad_batch_step_{step}_host_{jax.process_index()}.npz'
      with path.open('wb') as file:
        np.savez(file, **batch)
      raise errors.InputError(
        f'{self.run_dir}: {self.guard.patience} steps in a row from step {step} on were skipped, as the loss '
        f'or its gradient was not finite or exploded; lower the learning rate; the batch of that step is in '
        f'{path.name}, and the last checkpoint is kept'
      )
    self.rewinds += 1
    position = self.position
    self.checkpoints.wait()
    self._restore()
    self.position = position
    if self.main:
      warnings.warn(
        f'{self.run_dir}: {self.guard.patience} bad steps in a row from step {step} on; '
        f'going back to step {self.step}, on with example {position}',
        stacklevel=2,
      )

  def loop(self) -> Any:
    """Trains to the end; the final state."""
    settings, clock = self.settings, self.clock
    writer = metrics.MetricWriter(self.run_dir, self.step) if self.main else metrics.Silence()
    progress = metrics.TrainingProgress(settings.total_steps, self.step) if self.main else metrics.Silence()
    devices = list(self.partitioner.mesh.devices.flat)
    speed = health.Speedometer(
      clock, self.trainable.tokens(self.example), self.trainable.flops(self.example), devices
    )
    watchdog = distributed.Watchdog(settings.hang_seconds, str(self.run_dir))
    stream = prefetch(self.batches.start(self.position, self.rows))
    pending: collections.deque = collections.deque()  # (step, position, metrics) on the device
    window: list[dict] = []  # metrics since the last log, on the host
    bad: list[tuple[int, int]] = []  # the last bad steps in a row
    told_to_stop = False
    trace_until = 0

    def drain(left: int) -> None:
      nonlocal told_to_stop
      while len(pending) > left:
        step, position, row = pending.popleft()
        row = {name: float(value) for name, value in jax.device_get(row).items()}
        watchdog.seen()
        told_to_stop |= row.pop('stop') > 0
        if row.pop('bad'):
          bad.append((step, position))
        else:
          bad.clear()
        window.append(row)

    try:
      with Signals() as signals:
        while self.step < settings.total_steps:
          if signals.trace or (settings.profile_steps and self.step + 1 == settings.profile_steps[0]):
            length = TRACED if signals.trace else settings.profile_steps[-1] - settings.profile_steps[0] + 1
            signals.trace, trace_until = False, self.step + length
            jax.profiler.start_trace(str(self.run_dir / 'profile'))
          with clock.spending('data'):
            local = next(stream)
          batch = self.partitioner.shard(local, self.batches.batch_size)
          late = settings.stop_after_seconds is not None and clock.wall > settings.stop_after_seconds
          asked = self._asked(signals.stop or late)
          self.state, row = self.train_step(self.state, batch, np.int32(self.step), asked)
          pending.append((self.step + 1, self.position, row))
          self.step, self.position = self.step + 1, self.position + self.batches.batch_size
          step, last = self.step, self.step == settings.total_steps
          progress.advance(step)
          drain(AHEAD)
          stop = told_to_stop or (jax.process_count() == 1 and (signals.stop or late))
          log = settings.due(settings.log_every, step)
          evaluate = self.eval_batches is not None and settings.due(settings.eval_every, step)
          sample = self.sampler is not None and settings.due(settings.sample_every, step)
          # Nothing is saved amid bad steps, so that the last checkpoint is from before them.
          save = stop or last or (settings.due(settings.checkpoint_every, step) and not bad)
          if log or evaluate or sample or save or step == trace_until:
            drain(0)
            save &= stop or last or not bad
          if step == trace_until:
            jax.profiler.stop_trace()
          if len(bad) >= self.guard.patience:
            drain(0)
            if len(bad) >= self.guard.patience:
              stream.close()
              with clock.spending('rewind'):
                self.rewind(bad[0])
              bad.clear()
              window.clear()
              writer.forget_after(self.step)
              stream = prefetch(self.batches.start(self.position, self.rows))
              continue
          if log:
            scalars = metrics.summary(window) | speed.read(len(window))
            window.clear()
            writer.write(step, 'train', scalars)
            progress.note(step, 'train', scalars)
          if evaluate:
            with clock.spending('evaluation'):
              self.evaluated = self.evaluate()
            watchdog.seen()
            writer.write(step, 'validation', self.evaluated)
            progress.note(step, 'validation', self.evaluated)
          if sample:
            with clock.spending('samples'):
              self.sample()
            watchdog.seen()
          if save:
            with clock.spending('checkpoints'):
              self.save()
            watchdog.seen()
          if stop and not last:
            raise Interrupted(
              f'{self.run_dir}: stopped at step {step} of {settings.total_steps}; '
              'run the same command to go on'
            )
    except jax.errors.JaxRuntimeError as error:
      if distributed.is_lost_process(error):
        progress.close()
        reason = (str(error).strip().splitlines() or [''])[0][:160]
        distributed.leave(
          f'{self.run_dir}: another process was lost at step {self.step} ({reason}); '
          'run the same command to go on from the last checkpoint'
        )
      raise
    finally:
      stream.close()
      progress.close()
      writer.close()
      self.checkpoints.close()
      watchdog.close()
    return self.state['trainable']


def _widened(batch: Batch, size: int, zeros: bool = False) -> Batch:
  """The shapes of a batch of another size; or such a batch of zeros."""
  make = np.zeros if zeros else jax.ShapeDtypeStruct
  return {name: make((size, *x.shape[1:]), x.dtype) for name, x in batch.items()}


def train(
  *,
  run_dir: epath.PathLike,
  trainable: Trainable,
  batches: Batches,
  eval_batches: Batches | None = None,
  partitioner: Partitioner = Partitioner(),  # noqa: B008 (frozen)
  guard: Guard = Guard(),  # noqa: B008 (frozen)
  warm_start: WarmStart | None = None,
  sampler: Sampler | None = None,
  seed: int = 0,
  started: Callable[[], None] | None = None,
  **settings,
) -> Any:
  """Trains to `total_steps`, from the latest checkpoint of `run_dir` where there is one.

  The same seed, data, mesh and machine give the same bits, also after a kill: a step's key is
  folded from the seed and its number, and the data position is saved with the state.

  Args:
    run_dir: the run's directory, made where it does not exist.
    trainable: what to train.
    batches: training data.
    eval_batches: data for evaluation; None: no evaluation.
    partitioner: mesh and shardings.
    guard: what is done about bad steps.
    warm_start: weights that a new run begins with; a resumed one does not look at it.
    sampler: makes samples during training; None: none.
    seed: of initialisation, dropout and everything random in a step.
    started: called once the run directory has been found fit to go on in.
    **settings: of `Settings`, `total_steps` at least.

  Returns:
    The final state.

  Raises:
    Interrupted: SIGTERM or SIGINT came, or the time was up; the state is saved.
    errors.InputError: too many bad steps, or the run directory holds another architecture.
  """
  run = Run(
    run_dir, trainable, batches, eval_batches, partitioner, Settings(**settings), guard, sampler, seed
  )
  run.open(warm_start, started)
  run.compile()
  return run.loop()
