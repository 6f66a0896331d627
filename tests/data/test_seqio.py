"""SeqIO gives the batches that are read without it, and SeqIO's own tools can use the task."""

import itertools

import numpy as np
import pytest

from v2meow_jax.data import preparation, records, table
from v2meow_jax.data.batches import stage_batches
from v2meow_jax.data.dataset import Dataset
from v2meow_jax.data.seqio_batches import SeqioBatches
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

seqio_tasks = pytest.importorskip('v2meow_jax.data.seqio_tasks', reason='SeqIO is part of the extra "train"')

MOTION = Stream('video/motion', 'embedding', 4, 3)
TOKENS = Stream('audio/acoustic', 'tokens', 25, 2, 50)


class Counting:
  """An encoder whose elements tell their clip and time."""

  needs = 'audio'

  def __init__(self, stream: Stream):
    self.stream = stream
    self.identity = {'encoder': 'counting', 'stream': stream.name}

  def encode_clip(self, clip):
    index = np.arange(self.stream.length(clip.duration))
    return (index[:, None] + int(clip.start)) % 50 + np.zeros(self.stream.width)


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp('dataset')
  rows = []
  for n in range(12):
    split = 'validation' if n % 4 == 3 else 'train'
    # One clip is shorter than the crop.
    rows.append(table.Clip(f'c{n}', f's{n}', float(n), 1.5 if n == 2 else 9.25, split, audio='none'))
  table.write(path, rows)
  made = [Counting(MOTION), Counting(TOKENS)]
  preparation.prepare_streams(path, made, processes=1, clips_a_part=4, shard_bytes=1)
  return path


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
  # So that examples cross the border of a block, and the last one is not full.
  monkeypatch.setattr(seqio_tasks, 'BLOCK', 4)


@pytest.fixture(scope='module')
def stage():
  return Stage('coarse', (Condition(MOTION),), Target(TOKENS), 3)


def same(ours, theirs):
  assert ours.keys() == theirs.keys()
  for key, value in ours.items():
    assert value.dtype == theirs[key].dtype, key
    np.testing.assert_array_equal(value, theirs[key], err_msg=key)


@pytest.mark.parametrize('position', [0, 4, 28])
def test_batches_are_the_same_with_and_without_seqio(directory, stage, position):
  plain = stage_batches(stage, str(directory), 4, 'train', 7).start(position)
  through = SeqioBatches(stage, str(directory), 4, 'train', 7).start(position)
  for ours, theirs in itertools.islice(zip(plain, through, strict=False), 8):
    same(ours, theirs)


def test_shards_share_the_examples_out(directory, stage):
  import seqio

  source = stage_batches(stage, str(directory), 1, 'train', 0).source()
  task = seqio_tasks.make_task('shared', {'train': source})
  lengths = seqio_tasks.feature_lengths(stage)

  def read(shard_info):
    found = task.get_dataset(lengths, 'train', shuffle=False, shard_info=shard_info, try_in_mem_cache=False)
    return [example[TOKENS.name][:, 0].tolist() for example in found.as_numpy_iterator()]

  whole = read(None)
  parts = [read(seqio.ShardInfo(index, 3)) for index in range(3)]
  assert len(whole) == 9
  assert [parts[n % 3][n // 3] for n in range(9)] == whole


def test_the_converters_lengths_and_masks(directory, stage):
  source = stage_batches(stage, str(directory), 1, 'train', 0).source()
  lengths = seqio_tasks.feature_lengths(stage)
  assert lengths == {MOTION.name: 12, f'{MOTION.name}/offset': 1, TOKENS.name: 75, f'{TOKENS.name}/offset': 1}
  task = seqio_tasks.make_task('converted', {'train': source})
  ds = task.get_dataset(lengths, 'train', shuffle=False, num_epochs=1, try_in_mem_cache=False)
  found = list(seqio_tasks.StageFeatureConverter(stage)(ds, lengths).as_numpy_iterator())
  filled = sorted(int(example[f'{TOKENS.name}/mask'].sum()) for example in found)
  # Of nine clips one has 1.5 s; 25 Hz rounds 37.5 elements to the even 38.
  assert filled == [38] + [75] * 8


def test_a_stream_folder_is_a_tfds_dataset(directory):
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(str(directory / TOKENS.name / records.VERSION))
  assert builder.info.splits['train'].num_examples == 9
  rows = list(tfds.as_numpy(builder.as_dataset(split='validation', shuffle_files=False)))
  assert [row['id'].decode() for row in rows] == ['c3', 'c7', 'c11']
  reader = Dataset(directory, 'validation', (TOKENS,))
  for n, row in enumerate(rows):
    np.testing.assert_array_equal(row['elements'], reader.read(TOKENS, n))


def starts(ds, count=None):
  """(first token, tokens) of examples: the encoder's tokens tell where in which clip a crop begins."""
  found = itertools.islice(ds.as_numpy_iterator(), count)
  return [(int(example[TOKENS.name][0, 0]), len(example[TOKENS.name])) for example in found]


def test_a_strangers_program_gets_fresh_crops_every_epoch_and_shares_them_out(directory, stage):
  import seqio

  source = stage_batches(stage, str(directory), 1, 'train', 0).source()
  seqio.TaskRegistry.add(
    'a_strangers',
    source=seqio_tasks.ClipSource({'train': source}),
    output_features=seqio_tasks.output_features(stage.streams),
    preprocessors=[],
  )
  lengths = seqio_tasks.feature_lengths(stage)

  def read(**how):
    # As anyone would: with SeqIO's own defaults, its memory among them.
    return seqio.get_mixture_or_task('a_strangers').get_dataset(lengths, 'train', **how)

  wanted = [int(source[n][TOKENS.name][0, 0]) for n in range(36)]
  assert [first for first, _ in starts(read(shuffle=False, num_epochs=4))] == wanted
  assert [first for first, _ in starts(read(shuffle=False, num_epochs=None), 40)][:36] == wanted
  # Eight clips are longer than the crop; four epochs of them have crops that the first has not.
  assert len(set(wanted)) > 2 * len(set(wanted[:9]))
  assert len(starts(read(shuffle=False, num_epochs=1))) == 9
  parts = [starts(read(shuffle=False, num_epochs=4, shard_info=seqio.ShardInfo(n, 3))) for n in range(3)]
  assert [first for part in zip(*parts, strict=True) for first, _ in part] == wanted


def test_a_seed_is_another_order_only_where_it_is_asked_to_shuffle(directory, stage):
  source = stage_batches(stage, str(directory), 1, 'train', 0).source()
  task = seqio_tasks.make_task('seeded', {'train': source})
  lengths = seqio_tasks.feature_lengths(stage)
  plain = starts(task.get_dataset(lengths, 'train', shuffle=False, seed=5))
  assert plain == starts(task.get_dataset(lengths, 'train', shuffle=True))
  assert plain != starts(task.get_dataset(lengths, 'train', shuffle=True, seed=5))


def test_mixtures_take_the_task(directory, stage):
  import seqio

  source = stage_batches(stage, str(directory), 1, 'train', 0).source()
  seqio.TaskRegistry.add_provider('mixed_task', seqio_tasks.make_task('mixed_task', {'train': source}))
  seqio.MixtureRegistry.add('mixed', [('mixed_task', 1.0)])
  lengths = seqio_tasks.feature_lengths(stage)
  ds = seqio.get_mixture_or_task('mixed').get_dataset(lengths, 'train', shuffle=False)
  wanted = [int(source[n][TOKENS.name][0, 0]) for n in range(30)]
  assert [first for first, _ in starts(ds, 30)] == wanted


def test_an_iterator_over_endless_examples_can_be_saved(directory, stage, tmp_path):
  import tensorflow as tf

  source = stage_batches(stage, str(directory), 1, 'train', 0).source()
  task = seqio_tasks.make_task('endless', {'train': source}, epochs=None)
  made = iter(task.get_dataset(seqio_tasks.feature_lengths(stage), 'train', shuffle=False))
  first = [int(next(made)[TOKENS.name][0, 0]) for _ in range(5)]
  path = tf.train.Checkpoint(iterator=made).write(str(tmp_path / 'saved'))
  onward = [int(next(made)[TOKENS.name][0, 0]) for _ in range(5)]
  other = iter(task.get_dataset(seqio_tasks.feature_lengths(stage), 'train', shuffle=False))
  tf.train.Checkpoint(iterator=other).read(path).assert_consumed()
  assert [int(next(other)[TOKENS.name][0, 0]) for _ in range(5)] == onward
  wanted = [int(source[n][TOKENS.name][0, 0]) for n in range(10)]
  assert first + onward == wanted


def test_a_reading_that_is_to_be_the_same_is_and_examples_tell_their_clip(directory, stage):
  source = stage_batches(stage, str(directory), 1, 'train', 0).source()
  task = seqio_tasks.make_task('the_same', {'train': source}, fresh=False, named=True)
  lengths = seqio_tasks.feature_lengths(stage)
  ds = task.get_dataset(lengths, 'train', shuffle=False)
  rows = list(ds.as_numpy_iterator())
  assert starts(ds) == starts(ds) and len(rows) == 9
  # The encoder's first token is the clip's number and the elements before the crop.
  for row in rows:
    first = int(row['clip'].decode().removeprefix('c')) + round(25 * float(row['start']))
    assert row[TOKENS.name][0, 0] == first % 50
  converted = seqio_tasks.StageFeatureConverter(stage)(ds, lengths)
  assert 'clip' not in converted.element_spec and 'start' not in converted.element_spec
