"""The training loop: feeds steps, evaluates, records, saves, and stops when asked to."""

import itertools
import json
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from v2meow_jax import errors
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import metrics
from v2meow_jax.training.checkpoints import Checkpoints
from v2meow_jax.training.protocols import Batch, Batches, Trainable


class Interrupted(Exception):
  """The run was asked to stop; its state is saved and it can be resumed."""


class _StopSignals:
  """Notes SIGTERM and SIGINT while it is entered, instead of dying on them."""

  def __init__(self):
    self.received = False

  def __enter__(self):
    self._old = {}
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._note)
    return self

  def _note(self, number, frame):
    del frame
    if self.received and number == signal.SIGINT:
      raise KeyboardInterrupt  # a second Ctrl-C does not wait for the save
    self.received = True

  def __exit__(self, *exc):
    for number, handler in self._old.items():
      signal.signal(number, handler)


def prefetch(iterator: Iterator[Batch], ahead: int = 2) -> Generator[Batch]:
  """Reads `ahead` items in a thread; an error surfaces where the item is taken."""
  items: queue.Queue = queue.Queue(ahead)
  end = object()
  stopped = threading.Event()

  def fill():
    try:
      for item in itertools.chain(iterator, [end]):
        while not stopped.is_set():
          try:
            items.put(item, timeout=0.1)
            break
          except queue.Full:
            continue
        if stopped.is_set():
          return
    except BaseException as error:  # handed to the consumer
      while not stopped.is_set():
        try:
          items.put(error, timeout=0.1)
          return
        except queue.Full:
          continue

  threading.Thread(target=fill, daemon=True).start()
  try:
    while (item := items.get()) is not end:
      if isinstance(item, BaseException):
        raise item
      yield item
  finally:
    stopped.set()


def evaluate(
  evaluate_step, state: Any, batches: Batches, count: int, partitioner: Partitioner
) -> dict[str, float]:
  """Weighted mean of the metrics over the first `count` batches."""
  rows = [
    jax.device_get(evaluate_step(state, partitioner.shard(batch)))
    for batch in itertools.islice(batches.start(0), count)
  ]
  weights = [float(row.pop('weight')) for row in rows]
  return metrics.mean(rows, weights)


def _check_finite(run_dir: epath.Path, rows: list[dict], step: int) -> None:
  """Raises `errors.InputError` where one of the last steps' losses, up to `step`, is not finite."""
  for number, row in enumerate(rows, step - len(rows) + 1):
    if not np.isfinite(row['loss']):
      raise errors.InputError(
        f'{run_dir}: the loss is {float(row["loss"])} at step {number}; lower the learning rate; '
        'the last checkpoint is kept'
      )


def train(
  *,
  run_dir: epath.PathLike,
  trainable: Trainable,
  batches: Batches,
  total_steps: int,
  eval_batches: Batches | None = None,
  eval_steps: int = 8,
  partitioner: Partitioner = Partitioner(),  # noqa: B008 (frozen)
  seed: int = 0,
  log_every: int = 20,
  eval_every: int = 200,
  checkpoint_every: int = 200,
  keep: int = 2,
  stop_after_seconds: float | None = None,
  started: Callable[[], None] | None = None,
) -> Any:
  """Trains to `total_steps`, from the latest checkpoint of `run_dir` where there is one.

  The same seed, data, mesh and machine give the same bits, also after a kill: a step's key is
  folded from the seed and its number, and the data position is saved with the state.

  Args:
    run_dir: the run's directory, made where it does not exist.
    trainable: what to train.
    batches: training data.
    total_steps: steps of the whole run.
    eval_batches: data for evaluation; None: no evaluation.
    eval_steps: batches of an evaluation, always the same ones.
    partitioner: mesh and shardings.
    seed: of initialisation, dropout and everything random in a step.
    log_every, eval_every, checkpoint_every: in steps.
    keep: checkpoints kept.
    stop_after_seconds: stop as if interrupted after this time; None: never.
    started: called once the run directory has been found fit to go on in.

  Returns:
    The final state.

  Raises:
    Interrupted: SIGTERM or SIGINT came, or the time was up; the state is saved.
    errors.InputError: the loss is not finite, or the run directory holds another architecture.
  """
  run_dir = epath.Path(run_dir)
  for source in filter(None, (batches, eval_batches)):
    partitioner.check_batch(source.batch_size)
  about = trainable.describe() | {'data': batches.describe()}
  root = jax.random.key(seed)
  began = time.monotonic()

  first = next(batches.start(0))
  init_args = (jax.random.fold_in(root, 0), first)
  run_dir.mkdir(parents=True, exist_ok=True)
  checkpoints = Checkpoints(run_dir, keep)
  if checkpoints.latest() is not None:
    shardings, abstract = partitioner.state_sharding(trainable.init, *init_args)
    state, step, position = checkpoints.restore(abstract)
  else:
    state, shardings = partitioner.init(trainable.init, *init_args)
    step, position = 0, 0
  # Only now: a run of another architecture keeps its own description.
  (run_dir / 'model.json').write_text(json.dumps(about, indent=2) + '\n')
  if started is not None:
    started()

  train_step = jax.jit(trainable.step, donate_argnums=0, out_shardings=(shardings, None))
  evaluate_step = jax.jit(trainable.evaluate)
  writer = metrics.MetricWriter(run_dir, step)
  progress = metrics.TrainingProgress(total_steps, step)
  pending: list[dict] = []
  logged_at, logged_step = time.monotonic(), step
  stream = prefetch(batches.start(position))
  step_root = jax.random.fold_in(root, 1)

  try:
    with _StopSignals() as stop:
      while step < total_steps:
        batch = partitioner.shard(next(stream))
        state, row = train_step(state, batch, jax.random.fold_in(step_root, step))
        pending.append(row)
        step, position = step + 1, position + batches.batch_size
        progress.advance(step)
        last = step == total_steps
        if step % log_every == 0 or last:
          _check_finite(run_dir, pending, step)
          scalars = metrics.mean(jax.device_get(pending))
          pending.clear()
          now = time.monotonic()
          scalars['seconds_per_step'] = (now - logged_at) / (step - logged_step)
          logged_at, logged_step = now, step
          writer.write(step, 'train', scalars)
          progress.note(step, 'train', scalars)
        if eval_batches is not None and (step % eval_every == 0 or last):
          paused = time.monotonic()
          scalars = evaluate(evaluate_step, state, eval_batches, eval_steps, partitioner)
          writer.write(step, 'validation', scalars)
          progress.note(step, 'validation', scalars)
          logged_at += time.monotonic() - paused
        timed_out = stop_after_seconds is not None and time.monotonic() - began > stop_after_seconds
        if step % checkpoint_every == 0 or last or stop.received or timed_out:
          _check_finite(run_dir, pending, step)
          checkpoints.save(step, state, position)
        if (stop.received or timed_out) and not last:
          raise Interrupted(
            f'{run_dir}: stopped at step {step} of {total_steps}; run the same command to go on'
          )
  finally:
    stream.close()
    progress.close()
    writer.close()
    checkpoints.close()
  return state
