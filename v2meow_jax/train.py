"""`v2meow train`: trains a codec or a stage, configured by gin."""

import pathlib
import sys
from typing import TYPE_CHECKING

import gin
from v2meow_jax import cli, configuration, errors

if TYPE_CHECKING:
  from v2meow_jax.partitioning import Partitioner
  from v2meow_jax.training.protocols import Batches, Trainable


def train(
  *,
  model_dir: str,
  trainable: 'Trainable',
  batches: 'Batches',
  total_steps: int,
  eval_batches: 'Batches | None' = None,
  eval_steps: int = 8,
  partitioner: 'Partitioner | None' = None,
  seed: int = 0,
  log_every: int = 20,
  eval_every: int = 200,
  checkpoint_every: int = 200,
  keep: int = 2,
  stop_after_seconds: float | None = None,
):
  """Trains into `model_dir`, or goes on from the latest checkpoint there; see `training.loop.train`.

  Args:
    model_dir: the run's directory.
    trainable: what to train: `@CodecTrainable()` or `@StageTrainable()`.
    batches: training data: `@stage_batches()`, `@ClipBatches()` or `@SeqioBatches()`.
    total_steps: steps of the whole run.
    eval_batches: data for evaluation.
    eval_steps: batches of an evaluation.
    partitioner: mesh and rules; all devices as data parallel by default.
    seed: of everything random in training.
    log_every: steps.
    eval_every: steps.
    checkpoint_every: steps.
    keep: checkpoints kept.
    stop_after_seconds: stop, resumable, after this time.
  """
  from v2meow_jax.partitioning import Partitioner
  from v2meow_jax.training import loop

  def started() -> None:
    (pathlib.Path(model_dir) / 'config.gin').write_text(gin.operative_config_str())

  return loop.train(
    run_dir=model_dir,
    trainable=trainable,
    batches=batches,
    total_steps=total_steps,
    eval_batches=eval_batches,
    eval_steps=eval_steps,
    partitioner=partitioner or Partitioner(),
    seed=seed,
    log_every=log_every,
    eval_every=eval_every,
    checkpoint_every=checkpoint_every,
    keep=keep,
    stop_after_seconds=stop_after_seconds,
    started=started,
  )


STOPPED = 75  # EX_TEMPFAIL: not finished, run it again


def main(argv: list[str] | None = None) -> int:
  """Trains a codec or a stage. Exit status 75: stopped by a signal or by time, saved, can be resumed."""
  args = configuration.parse(
    configuration.parser('v2meow train', main.__doc__), sys.argv[1:] if argv is None else argv
  )
  call = configuration.configurable(train)
  configuration.load(args)
  from v2meow_jax.training.loop import Interrupted

  try:
    call()
  except Interrupted as stopped:
    print(f'v2meow: {cli.first_part(stopped)}', file=sys.stderr)
    return STOPPED
  except (TypeError, ValueError) as error:
    # Of a constructor: gin says which. What goes wrong later, inside of the training, is no matter of gin's.
    told = configuration.constructor_error(error)
    if isinstance(error, errors.InputError) or told is None:
      raise
    raise errors.ConfigError(told) from error
  return 0


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
