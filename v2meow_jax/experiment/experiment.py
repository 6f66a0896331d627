"""What a gin configuration says is to be trained, and its training."""

import argparse
import math
from collections.abc import Callable, Sequence

import jax

import gin
from v2meow_jax import __version__, errors, runtime
from v2meow_jax.experiment import bindings, configuration, history
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import agreement, loop
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.protocols import Batches, Padded, Sampler, Trainable, WarmStart
from v2meow_jax.training.run import Settings


# `v2meow_jax.train` is how gin files have known it from the first.
@gin.configurable('train', module='v2meow_jax')  # type: ignore[call-arg] (gin's own stub is wrong)
def train(
  *,
  model_dir: str,
  trainable: Trainable,
  batches: Batches,
  settings: Settings,
  eval_batches: Batches | None = None,
  partitioner: Partitioner | None = None,
  guard: Guard | None = None,
  warm_start: WarmStart | None = None,
  sampler: Sampler | None = None,
  seed: int = 0,
  most_padding: float = 0.5,
  allow_changes: bool = False,
  writers: tuple[Callable, ...] = (),
  instead: Callable | None = None,
):
  """Trains into `model_dir`, or goes on from the latest checkpoint there; see `training.loop.train`.

  Args:
    model_dir: the run's directory; local, or of an object store (`gs://`).
    trainable: what to train: `@CodecTrainable()` or `@StageTrainable()`.
    batches: training data: `@stage_batches()`, `@ClipBatches()` or `@SeqioBatches()`.
    settings: how long, and how often it does what: `@Settings()`.
    eval_batches: data for evaluation.
    partitioner: mesh and rules; all devices as data parallel by default.
    guard: what is done about bad steps.
    warm_start: weights to begin with.
    sampler: makes something to hear every `Settings.sample_every` steps.
    seed: of everything random in training.
    most_padding: share of a crop that may lie behind the end of its clip, on the average.
    allow_changes: whether a run may go on with another seed, batch size or dataset.
    writers: what else is told the run's numbers: `(@Wandb(),)`, `(@Mlflow(),)`.
    instead: called with trainable, batches, partitioner and guard, in place of training.
  """
  partitioner, guard = partitioner or Partitioner(), guard or Guard()
  if instead is not None:
    return instead(trainable, batches, partitioner, guard)
  runtime.set_up(model_dir)

  def started(step: int) -> None:
    main = jax.process_index() == 0
    history.record(model_dir, gin.operative_config_str(), data, step, allow_changes, main)

  sources = [source for source in (batches, eval_batches) if source is not None]
  data = agreement.digest(' '.join(s.fingerprint() for s in sources if isinstance(s, Padded)))
  check_padding(sources, most_padding)
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
    agreed=_common() | {'data': data},
    writers=writers,
    **vars(settings),
  )


def check_padding(sources: Sequence[Batches], most: float) -> None:
  """Refuses data whose clips are so short that crops are mostly padding.

  Raises:
    errors.ConfigError: they are.
  """
  for source in sources:
    share = source.padding() if isinstance(source, Padded) else 0.0
    if share > most:
      raise errors.ConfigError(
        f'{share:.0%} of a crop lie behind the end of its clip; prepare longer clips, take a shorter crop, '
        f'or allow it by --gin.train.most_padding={math.ceil(share * 100) / 100}'
      )


def _common() -> dict[str, str]:
  """What all processes of a run must have in common; where the data lies on each is its own affair."""
  told = bindings.statements(gin.config_str())
  told = {name: value for name, value in told.items() if not name.endswith(('DATASET_DIR', 'dataset_dir'))}
  return told | {'version': __version__}


def inspect(args: argparse.Namespace, look: Callable) -> None:
  """Calls `look(trainable, batches, partitioner, guard)` with what is configured, and trains nothing.

  Args:
    args: of `configuration.parse`.
    look: is given what would be trained.
  """
  # Neither is looked at, so neither need be given.
  args.bindings = ['MODEL_DIR="none"', 'DATASET_DIR="none"', *args.bindings]
  configuration.load(args)
  with configuration.built():
    train(instead=look)  # type: ignore[call-arg] (gin gives the rest)
