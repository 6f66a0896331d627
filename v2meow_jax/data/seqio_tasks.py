"""Datasets as SeqIO knows them: a data source in the computed order, a task, and a feature converter.

SeqIO keeps tasks, preprocessors and converters; order, crops and position stay computed, so that no
shuffle buffer has to be saved. `SeqioBatches` gives the very batches that `ClipBatches` gives.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from v2meow_jax import stores
from v2meow_jax.data import order
from v2meow_jax.data.crops import CropSource
from v2meow_jax.stages import Stage
from v2meow_jax.streams import MODEL_DTYPES, Stream

FOREVER = np.iinfo(np.int64).max
# Examples that one call of Python from TensorFlow fetches, as many as fit into so many bytes: a call costs
# more than a small example does.
BLOCK, BLOCK_BYTES = 64, 2**21


class ClipSource(seqio.DataSource):
  """Crops of a prepared dataset, by their number in the run.

  Examples hold `NAME` [n, width], without padding where the clip ends, and `NAME/offset` [1], in
  seconds. They come in the computed order: `shuffle` changes it only where there is a `seed` as well. Of H
  shards, shard h has the examples with n mod H = h.

  SeqIO repeats a source by reading it again, so each reading goes on with the epoch after the last: its
  clips come in another order and with other crops, unless it is told otherwise. Nothing says how many
  examples there are, for SeqIO keeps a source that is known to be small in memory, crops included.

  Args:
    sources: by split.
    start: number of the first example.
    share: (batch size, rows) where of each batch only some rows are wanted: a host's part.
    epochs: epochs of one reading, for all splits or by split; None: without end, which needs no `num_epochs`,
      keeps no count, and so can be part of a saved iterator of tf.data.
    fresh: whether a reading goes on where the last one ended. False: every reading is the first, as
      programs need that read the same examples several times, and it keeps no count.
    named: whether examples also have `clip`, the clip's id, and `start`, the crop's in it in seconds.
  """

  def __init__(
    self,
    sources: Mapping[str, CropSource],
    start: int = 0,
    epochs: int | Mapping[str, int | None] | None = 1,
    share: tuple[int, tuple[int, ...]] = (1, (0,)),
    *,
    fresh: bool = True,
    named: bool = False,
  ):
    super().__init__(
      splits=tuple(sources),
      num_input_examples=None,
      caching_permitted=False,
      performs_internal_shuffling=True,
    )
    self._sources, self._start, self._share = dict(sources), start, share
    self._fresh, self._named = fresh, named
    self._epochs = epochs if isinstance(epochs, Mapping) else dict.fromkeys(sources, epochs)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def get_dataset(
    self,
    split='train',
    shuffle=True,
    seed=None,
    shard_info=None,
    *,
    sequence_length=None,
    use_cached=False,
    num_epochs=1,
  ) -> tf.data.Dataset:  # fmt: skip (SeqIO's own signature)
    source = self._sources[split]
    if shuffle and seed is not None:
      source = source.with_seed(order.fold(source.seed, int(seed)))
    streams = source.dataset.streams
    dtypes = [dtype for stream in streams for dtype in (MODEL_DTYPES[stream.kind], np.float32, np.int32)]

    lengths = [stream.length(source.crop_seconds) for stream in streams]

    def fetch(numbers):
      examples = list(stores.in_order(source.__getitem__, map(int, numbers), source.dataset.at_once))
      values = []
      for stream in streams:
        values.append(np.stack([example[stream.name] for example in examples]))
        values.append(np.stack([example[f'{stream.name}/offset'] for example in examples]))
        values.append(np.array([example[f'{stream.name}/mask'].sum() for example in examples], np.int32))
      return values

    def name(numbers):
      places = [source.place(int(n)) for n in numbers]
      ids = np.array([source.dataset.clips[clip].id for clip, _ in places], object)
      return ids, np.array([start for _, start in places], np.float32)

    def restore(numbers):
      values = tf.numpy_function(fetch, [numbers], dtypes, stateful=False)
      block = {}
      if self._named:
        clips, starts = tf.numpy_function(name, [numbers], [tf.string, tf.float32], stateful=False)
        block = {'clip': tf.ensure_shape(clips, (None,)), 'start': tf.ensure_shape(starts, (None,))}
      for stream, length, elements, offset, count in zip(
        streams, lengths, values[::3], values[1::3], values[2::3], strict=True
      ):
        block[stream.name] = tf.ensure_shape(elements, (None, length, stream.width))
        block[f'{stream.name}/offset'] = tf.ensure_shape(offset, (None,))
        block[f'{stream.name}/count'] = tf.ensure_shape(count, (None,))
      return block

    def cut(example):
      made = {key: value for key, value in example.items() if key in ('clip', 'start')}
      for stream in streams:
        made[stream.name] = example[stream.name][: example[f'{stream.name}/count']]
        made[f'{stream.name}/offset'] = example[f'{stream.name}/offset'][None]
      return made

    numbers = self._numbers(self._epochs[split], len(source))
    batch_size, rows = self._share
    if batch_size > 1:
      offsets = tf.constant(rows, tf.int64)
      numbers = numbers.flat_map(lambda first: tf.data.Dataset.from_tensor_slices(first + offsets))
    if shard_info is not None and shard_info.num_shards > 1:
      numbers = numbers.filter(lambda n: tf.math.floormod(n, shard_info.num_shards) == shard_info.index)
    size = sum(
      length * stream.width * np.dtype(MODEL_DTYPES[stream.kind]).itemsize
      for stream, length in zip(streams, lengths, strict=True)
    )
    blocks = numbers.batch(min(BLOCK, max(1, BLOCK_BYTES // size)))
    found = blocks.map(restore, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
    return found.map(cut, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

  def _numbers(self, epochs: int | None, clips: int) -> tf.data.Dataset:
    """Numbers of the examples, or of the first of every batch."""
    batch_size = self._share[0]
    if epochs is None:
      return tf.data.Dataset.range(self._start, FOREVER, batch_size)
    length = epochs * clips
    if not self._fresh:
      return tf.data.Dataset.range(self._start, self._start + length, batch_size)
    readings = itertools.count()

    def begun():
      return np.int64(self._start + next(readings) * length)

    first = tf.data.Dataset.range(1).map(lambda _: tf.numpy_function(begun, [], tf.int64, stateful=True))
    return first.flat_map(lambda n: tf.data.Dataset.range(n, n + length, batch_size))


def output_features(streams: Sequence[Stream]) -> dict[str, seqio.Feature]:
  """What a task of these streams yields."""
  features: dict[str, seqio.Feature] = {}
  for stream in streams:
    if stream.kind == 'tokens':
      features[stream.name] = seqio.Feature(
        seqio.PassThroughVocabulary(stream.codes), add_eos=False, rank=2, dtype=tf.int32
      )
    else:
      dtype = tf.as_dtype(MODEL_DTYPES[stream.kind])
      features[stream.name] = seqio.ContinuousFeature(dtype=dtype, rank=2)
    features[f'{stream.name}/offset'] = seqio.ContinuousFeature(dtype=tf.float32, rank=1)
  return features


def feature_lengths(stage: Stage) -> dict[str, int]:
  """SeqIO's `task_feature_lengths` of a stage."""
  lengths = {}
  for stream in stage.streams:
    lengths |= {stream.name: stream.length(stage.crop_seconds), f'{stream.name}/offset': 1}
  return lengths


def make_task(
  name: str,
  sources: Mapping[str, CropSource],
  start: int = 0,
  epochs: int | Mapping[str, int | None] | None = 1,
  share: tuple[int, tuple[int, ...]] = (1, (0,)),
  *,
  fresh: bool = True,
  named: bool = False,
  metric_fns: Sequence[Callable[..., Mapping[str, Any]]] = (),
) -> seqio.Task:
  """A task over the streams of the sources; `seqio.TaskRegistry.add_provider` makes it known by its name.

  Args:
    name: of the task.
    sources, start, epochs, share, fresh, named: see `ClipSource`.
    metric_fns: what SeqIO's evaluator computes; see `seqio.Task`.
  """
  streams = next(iter(sources.values())).dataset.streams
  return seqio.Task(
    name,
    ClipSource(sources, start, epochs, share, fresh=fresh, named=named),
    output_features(streams),
    preprocessors=[],
    metric_fns=metric_fns,
    shuffle_buffer_size=None,
  )


class StageFeatureConverter(seqio.FeatureConverter):
  """Pads a stage's streams to their fixed lengths and adds masks: what `streams.crop` returns."""

  def __init__(self, stage: Stage):
    self._stage = stage
    spec = self.FeatureSpec
    self.TASK_FEATURES, self.MODEL_FEATURES = {}, {}
    for stream in stage.streams:
      values = spec(tf.as_dtype(MODEL_DTYPES[stream.kind]), rank=2)
      self.TASK_FEATURES |= {stream.name: values, f'{stream.name}/offset': spec(tf.float32, rank=1)}
      self.MODEL_FEATURES |= {
        stream.name: values,
        f'{stream.name}/mask': spec(tf.bool, rank=1),
        f'{stream.name}/offset': spec(tf.float32, rank=0),
      }
    self.PACKING_FEATURE_DTYPES = {}
    super().__init__(pack=False)

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
    lengths = dict(task_feature_lengths)
    for stream in self._stage.streams:
      lengths[f'{stream.name}/mask'] = task_feature_lengths[stream.name]
    return lengths

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    def convert(example):
      converted = {}
      for stream in self._stage.streams:
        length, values = task_feature_lengths[stream.name], example[stream.name]
        count = tf.shape(values)[0]
        padded = tf.pad(values, tf.stack([[0, length - count], [0, 0]]))
        converted[stream.name] = tf.ensure_shape(padded, (length, stream.width))
        converted[f'{stream.name}/mask'] = tf.range(length) < count
        converted[f'{stream.name}/offset'] = example[f'{stream.name}/offset'][0]
      return converted

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def iterate(
  stage: Stage, source: CropSource, share: tuple[int, tuple[int, ...]], split: str, position: int
) -> Iterator[dict[str, np.ndarray]]:
  """Rows of the batches of a stage through SeqIO, from example number `position` on, without end.

  Args:
    stage: whose streams and crop.
    source: the examples.
    share: (batch size, rows wanted of each batch).
    split: `train` or `validation`.
    position: number of the first example.
  """
  task = make_task(f'{stage.name}_{split}', {split: source}, position, epochs=None, share=share)
  lengths = feature_lengths(stage)
  # Shuffling and SeqIO's silent cache in memory would both undo the computed order.
  ds = task.get_dataset(lengths, split, shuffle=False, num_epochs=1, try_in_mem_cache=False)
  ds = StageFeatureConverter(stage)(ds, lengths)
  return ds.batch(len(share[1]), drop_remainder=True).prefetch(2).as_numpy_iterator()
