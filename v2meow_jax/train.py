"""`v2meow train`: trains a codec or a stage, configured by gin; `v2meow precompile`: its dry run."""

import sys
from typing import TYPE_CHECKING

from etils import epath

import gin
from v2meow_jax import cli, configuration, errors

if TYPE_CHECKING:
  import argparse
  from collections.abc import Callable

  from v2meow_jax.partitioning import Partitioner
  from v2meow_jax.training.guard import Guard
  from v2meow_jax.training.protocols import Batches, Sampler, Trainable, WarmStart


def train(
  *,
  model_dir: str,
  trainable: 'Trainable',
  batches: 'Batches',
  total_steps: int,
  eval_batches: 'Batches | None' = None,
  eval_steps: int = 8,
  partitioner: 'Partitioner | None' = None,
  guard: 'Guard | None' = None,
  warm_start: 'WarmStart | None' = None,
  sampler: 'Sampler | None' = None,
  seed: int = 0,
  log_every: int = 20,
  eval_every: int = 200,
  sample_every: int = 0,
  checkpoint_every: int = 200,
  keep: int = 2,
  keep_best: int = 0,
  keep_hours: float = 0.0,
  profile_steps: tuple[int, int] | None = None,
  stop_after_seconds: float | None = None,
  hang_seconds: float = 1800.0,
  instead: 'Callable | None' = None,
):
  """Trains into `model_dir`, or goes on from the latest checkpoint there; see `training.loop.train`.

  Args:
    model_dir: the run's directory; local, or of an object store (`gs://`).
    trainable: what to train: `@CodecTrainable()` or `@StageTrainable()`.
    batches: training data: `@stage_batches()`, `@ClipBatches()` or `@SeqioBatches()`.
    total_steps: steps of the whole run.
    eval_batches: data for evaluation.
    eval_steps: batches of an evaluation.
    partitioner: mesh and rules; all devices as data parallel by default.
    guard: what is done about bad steps.
    warm_start: weights to begin with.
    sampler: makes something to hear every `sample_every` steps.
    seed: of everything random in training.
    log_every, eval_every, sample_every, checkpoint_every: steps.
    keep, keep_best, keep_hours: checkpoints kept: the latest, those of the lowest validation loss, and
      one in so many hours.
    profile_steps: (first, last) step of a profiler trace.
    stop_after_seconds: stop, resumable, after this time.
    hang_seconds: end the process after so long without progress.
    instead: called with trainable, batches, partitioner and guard, in place of training.
  """
  from v2meow_jax.partitioning import Partitioner
  from v2meow_jax.training import loop
  from v2meow_jax.training.guard import Guard

  partitioner, guard = partitioner or Partitioner(), guard or Guard()
  if instead is not None:
    return instead(trainable, batches, partitioner, guard)

  def started() -> None:
    (epath.Path(model_dir) / 'config.gin').write_text(gin.operative_config_str())

  return loop.train(
    run_dir=model_dir,
    trainable=trainable,
    batches=batches,
    eval_batches=eval_batches,
    partitioner=partitioner,
    guard=guard,
    warm_start=warm_start,
    sampler=sampler,
    seed=seed,
    started=started,
    total_steps=total_steps,
    eval_steps=eval_steps,
    log_every=log_every,
    eval_every=eval_every,
    sample_every=sample_every,
    checkpoint_every=checkpoint_every,
    keep=keep,
    keep_best=keep_best,
    keep_hours=keep_hours,
    profile_steps=profile_steps,
    stop_after_seconds=stop_after_seconds,
    hang_seconds=hang_seconds,
  )


def inspect(args: 'argparse.Namespace', look: 'Callable') -> None:
  """Calls `look(trainable, batches, partitioner, guard)` with what is configured, and trains nothing."""
  # Neither is looked at, so neither need be given.
  args.bindings = ['MODEL_DIR="none"', 'DATASET_DIR="none"', *args.bindings]
  call = configuration.configurable(train)
  configuration.load(args)
  with configuration.built():
    call(instead=look)


STOPPED = 75  # EX_TEMPFAIL: not finished, run it again


def main(argv: list[str] | None = None) -> int:
  """Trains a codec or a stage.

  Exit status 75: stopped by a signal or by time, saved, can be resumed. 76: another process of the run
  is gone; the last checkpoint can be resumed from.
  """
  parser = configuration.parser('v2meow train', main.__doc__)
  many = parser.add_argument_group('several processes')
  many.add_argument('--multiprocess', action='store_true', help='found by Slurm, GKE, Cloud TPU, MPI')
  many.add_argument('--coordinator_address', help='host:port of process 0')
  many.add_argument('--process_count', type=int, help='processes in all')
  many.add_argument('--process_index', type=int, help='number of this one')
  many.add_argument('--heartbeat_seconds', type=int, default=60, help='silence after which one is lost')
  parser.add_argument('--dry_run', action='store_true', help='compile the step and print what it needs')
  parser.add_argument('--topology', help='for the dry run: a TPU slice that need not be there, as v5e:16x16')
  parser.add_argument('--slices', type=int, default=1, help='for the dry run: slices of that topology')
  args = configuration.parse(parser, sys.argv[1:] if argv is None else argv)
  if (args.topology or args.slices != 1) and not args.dry_run:
    raise errors.ConfigError('--topology and --slices are for --dry_run')
  if args.dry_run:
    from v2meow_jax import precompile

    return precompile.run(args)
  from v2meow_jax.training import distributed

  liveness = distributed.initialize(
    args.multiprocess,
    args.coordinator_address,
    args.process_count,
    args.process_index,
    args.heartbeat_seconds,
  )

  def work(_) -> int:
    call = configuration.configurable(train)
    configuration.load(args)
    from v2meow_jax.training.loop import Interrupted

    try:
      with configuration.built():
        call()
    except Interrupted as stopped:
      print(f'v2meow: {cli.first_part(stopped)}', file=sys.stderr)
      return STOPPED
    return 0

  if liveness is not None:
    liveness.finish(cli.run(work, []))
  return work(None)


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
