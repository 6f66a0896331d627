"""The training loop: feeds steps, evaluates, records, saves, and stops when asked to."""

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import agreement, distributed, health, metrics
from v2meow_jax.training.guard import ALARM, Guard
from v2meow_jax.training.prefetch import prefetch
from v2meow_jax.training.protocols import Batches, Sampler, Trainable, WarmStart
from v2meow_jax.training.run import Run, Settings
from v2meow_jax.training.signals import Signals
from v2meow_jax.training.tracing import Tracer
from v2meow_jax.training.writers import Open

# Steps that are dispatched before the metrics of the first of them are looked at.
AHEAD = 2


class Interrupted(Exception):
  """The run was asked to stop; its state is saved and it can be resumed."""


class Timers:
  """What the clock says is due. It is asked for once, and again so long after it was asked for.

  Args:
    minutes: the intervals; 0: never.
  """

  def __init__(self, minutes: Sequence[float]):
    self._seconds = [60 * each for each in minutes]
    self._last = [time.monotonic()] * len(self._seconds)

  def ask(self) -> int:
    """Bits of what is due now."""
    now, due = time.monotonic(), 0
    for kind, seconds in enumerate(self._seconds):
      if seconds and now - self._last[kind] >= seconds:
        self._last[kind] = now
        due |= 1 << kind
    return due


def _loop(run: Run, writers: Sequence[Open]) -> Any:
  """Trains to the end; the final state."""
  settings, clock = run.settings, run.clock
  writer = metrics.MetricWriter(run.run_dir, run.step, writers) if run.main else metrics.Silence()
  progress = metrics.TrainingProgress(settings.total_steps, run.step) if run.main else metrics.Silence()
  devices = list(run.partitioner.mesh.devices.flat)
  speed = health.Speedometer(
    clock, run.trainable.tokens(run.example), run.trainable.flops(run.example), devices
  )
  watchdog = distributed.Watchdog(settings.hang_seconds, str(run.run_dir))
  stream = prefetch(run.batches.start(run.position, run.rows))
  pending: collections.deque = collections.deque()  # (step, position, metrics) on the device
  window: list[dict] = []  # metrics since the last log, on the host
  bad, last_seen = 0, (0, 0)  # the last bad steps in a row, by the guard's count; step and position seen last
  alarms: list[str] = []  # of the step seen last
  told_to_stop, told_due = False, 0
  timers = Timers(settings.minutes)
  tracer = Tracer(run.run_dir, settings.profile_steps, settings.total_steps)

  def drain(left: int) -> None:
    nonlocal told_to_stop, told_due, bad, last_seen, alarms
    while len(pending) > left:
      step, position, row = pending.popleft()
      row = {name: float(value) for name, value in jax.device_get(row).items()}
      watchdog.seen()
      told_to_stop |= row.pop('stop') > 0
      told_due |= int(row.pop('due'))
      bad, last_seen = int(row.pop('bad')), (step, position)
      alarms = [name.removeprefix(ALARM) for name, on in row.items() if name.startswith(ALARM) and on]
      window.append(row)

  try:
    with Signals() as signals:
      while run.step < settings.total_steps:
        if tracer.before(run.step + 1, signals.trace):
          signals.trace = False
        with clock.spending('data'):
          local = next(stream)
        batch = run.partitioner.shard(local, run.batches.batch_size)
        late = settings.stop_after_seconds is not None and clock.wall > settings.stop_after_seconds
        asked = run.asked(signals.stop or late, timers.ask() if run.main else 0)
        run.state, row = run.train_step(run.state, batch, np.int32(run.step), asked)
        pending.append((run.step + 1, run.position, row))
        run.step, run.position = run.step + 1, run.position + run.batches.batch_size
        step, last = run.step, run.step == settings.total_steps
        progress.advance(step)
        drain(AHEAD)
        stop = told_to_stop or (jax.process_count() == 1 and (signals.stop or late))
        log, evaluate, save = (
          settings.due(every, step) or told_due >> kind & 1
          for kind, every in enumerate((settings.log_every, settings.eval_every, settings.checkpoint_every))
        )
        told_due = 0
        evaluate = run.eval_batches is not None and evaluate
        sample = run.sampler is not None and settings.due(settings.sample_every, step)
        # Nothing is saved amid bad steps, so that the last checkpoint is from before them.
        save = stop or last or (save and not bad)
        if log or evaluate or sample or save or tracer.ends(step):
          drain(0)
          save &= stop or last or not bad
        if tracer.ends(step):
          tracer.close()
        if bad >= run.guard.patience:
          drain(0)
        if bad >= run.guard.patience:
          stream.close()
          with clock.spending('rewind'):
            first, position = last_seen[0] - bad + 1, last_seen[1] - (bad - 1) * run.batches.batch_size
            run.rewind(first, position, alarms)
          bad = 0
          window.clear()
          writer.forget_after(run.step)
          stream = prefetch(run.batches.start(run.position, run.rows))
          continue
        if log:
          scalars = metrics.summary(window) | speed.read(len(window))
          window.clear()
          writer.write(step, 'train', scalars)
          progress.note(step, 'train', scalars)
        if evaluate:
          try:
            with clock.spending('evaluation'):
              scalars = run.evaluate()
          except Exception:
            # What was trained is kept.
            run.save()
            raise
          watchdog.seen()
          writer.write(step, 'validation', scalars)
          progress.note(step, 'validation', scalars)
        if sample:
          with clock.spending('samples'):
            run.sample(writer.media)
          watchdog.seen()
        if save:
          with clock.spending('checkpoints'):
            run.save()
          watchdog.seen()
        if stop and not last:
          raise Interrupted(
            f'{run.run_dir}: stopped at step {step} of {settings.total_steps}; run the same command to go on'
          )
  except jax.errors.JaxRuntimeError as error:
    if distributed.is_lost_process(error):
      progress.close()
      reason = (str(error).strip().splitlines() or [''])[0][:160]
      distributed.leave(
        f'{run.run_dir}: another process was lost at step {run.step} ({reason}); '
        'run the same command to go on from the last checkpoint'
      )
    raise
  finally:
    tracer.close()
    stream.close()
    progress.close()
    writer.close()
    run.checkpoints.close()
    watchdog.close()
  return run.state['trainable']


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
  started: Callable[[int], None] | None = None,
  agreed: Mapping[str, str] | None = None,
  writers: Sequence[Open] = (),
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
    started: called with the step once the run directory has been found fit to go on in; what it raises ends
      the run before anything is changed.
    agreed: what all processes of the run must have in common.
    writers: make what else is told the run's numbers.
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
  agreement.agree('start', agreed or {})
  run.open(warm_start, started)
  run.compile()
  agreement.agree('compiled step', {'step': agreement.digest(run.program)})
  return _loop(run, writers)
