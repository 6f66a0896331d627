"""A stage's data as T5X asks for it: a SeqIO task by name, and a feature converter."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

import gin
from v2meow_jax import errors
from v2meow_jax.data import seqio_tasks, table
from v2meow_jax.data.batches import stage_batches
from v2meow_jax.stages import Stage


@gin.configurable
def stage_task(stage: Stage, dataset_dir: str, seed: int = 0, name: str = '', fresh: bool = True) -> str:
  """Registers the task of a stage on a prepared dataset, and returns its name for `DatasetConfig`.

  Training examples come without end and in the order that `v2meow train` has; every other split is read once.
  Examples name their clip, and SeqIO's evaluator computes `likelihood` of them.

  Args:
    stage: whose streams and crop.
    dataset_dir: of a prepared dataset.
    seed: of order and crops.
    name: of the task; by default the stage's, with `v2meow_` before it.
    fresh: whether reading it again goes on with other crops, as training needs; evaluation and inference read
      their examples several times, so for them every reading is the same epoch, of every split.
  """
  name = name or f'v2meow_{stage.name}'
  if name not in seqio.TaskRegistry.names():
    splits = [split for split in table.SPLITS if len(table.ClipTable(dataset_dir, split))]
    sources = {split: stage_batches(stage, dataset_dir, 1, split, seed).source() for split in splits}
    epochs = {split: None if fresh and split == 'train' else 1 for split in splits}
    task = seqio_tasks.make_task(
      name, sources, epochs=epochs, fresh=fresh, named=True, metric_fns=[likelihood(stage)]
    )
    seqio.TaskRegistry.add_provider(name, task)
  return name


@gin.configurable
def target_feature(stage: Stage) -> str:
  """The feature that a stage predicts: what SeqIO's evaluator and T5X's inference call `targets`."""
  return stage.target.stream.name


def likelihood(stage: Stage) -> Callable[..., dict[str, float]]:
  """A SeqIO metric of a stage's scores, which are log-likelihoods of whole examples in nats.

  It gives `loss`, nats a token, and `bits_per_second` of audio, over all tokens of all examples, as
  `v2meow train` has them.
  """
  rate, depth = float(stage.target.stream.rate), stage.target.depth

  def compute(targets: Sequence[Sequence[np.ndarray]], scores: np.ndarray) -> dict[str, float]:
    tokens = depth * sum(len(target) for target in targets)
    loss = -float(np.sum(np.asarray(scores, np.float64))) / max(tokens, 1)
    return {'loss': loss, 'bits_per_second': loss / math.log(2) * rate * depth}

  return compute


feature_lengths = gin.configurable(seqio_tasks.feature_lengths, module='v2meow_jax.t5x.tasks')


class PlainFeatureConverter(seqio_tasks.StageFeatureConverter):
  """The stage's converter with the arguments that T5X gives every one."""

  def __init__(self, stage: Stage, pack: bool = False, use_custom_packing_ops: bool = False, **rest):
    del use_custom_packing_ops, rest
    if pack:
      raise errors.ConfigError(
        'a crop has one length and fills it, so there is nothing to pack: pack = False'
      )
    super().__init__(stage)

  def __call__(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
    wanted = seqio_tasks.feature_lengths(self._stage)
    if dict(task_feature_lengths) != wanted:
      raise errors.ConfigError(f'task_feature_lengths of stage {self._stage.name!r} are {wanted}')
    return super().__call__(ds, task_feature_lengths)


def converter(stage: Stage) -> Callable[..., seqio.FeatureConverter]:
  """What a T5X model has as `FEATURE_CONVERTER_CLS`."""
  return functools.partial(PlainFeatureConverter, stage)
