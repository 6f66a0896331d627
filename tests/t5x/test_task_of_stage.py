"""The SeqIO task that T5X's programs find by its name."""

import numpy as np
import pytest

from v2meow_jax.data import preparation, table
from v2meow_jax.stages import Stage, Target
from v2meow_jax.streams import Stream

tasks = pytest.importorskip('v2meow_jax.t5x.tasks', reason='SeqIO is part of the extra "train"')

TOKENS = Stream('audio/acoustic', 'tokens', 25, 3, 50)
STAGE = Stage('registered', (), Target(TOKENS, (1, 3)), 2)


class Zeros:
  """An encoder that needs no media."""

  needs = 'audio'
  stream = TOKENS

  def __init__(self):
    self.identity = {'encoder': 'zeros'}

  def encode_clip(self, clip):
    return np.zeros((TOKENS.length(clip.duration), TOKENS.width), int)


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp('dataset')
  splits = ('train', 'train', 'validation')
  table.write(path, [table.Clip(f'c{n}', f's{n}', 0.0, 5.0, splits[n], audio='none') for n in range(3)])
  preparation.prepare_streams(path, [Zeros()], processes=1, clips_a_part=4)
  return str(path)


def test_likelihood_is_nats_a_token_and_bits_a_second():
  # Two examples of 50 and 25 frames, of two levels of 50 codes, as likely as can be by chance.
  targets = [np.zeros((50, 3), int), np.zeros((25, 3), int)]
  scores = [-len(target) * 2 * np.log(50) for target in targets]
  found = tasks.likelihood(STAGE)(targets, np.array(scores))
  np.testing.assert_allclose(found['loss'], np.log(50))
  np.testing.assert_allclose(found['bits_per_second'], 25 * 2 * np.log2(50))


@pytest.mark.parametrize('fresh', [True, False])
def test_the_task_is_found_by_its_name(directory, fresh):
  import seqio

  name = tasks.stage_task(STAGE, directory, name=f'v2meow_registered_{fresh}', fresh=fresh)
  assert tasks.stage_task(STAGE, directory, name=name) == name
  task = seqio.get_mixture_or_task(name)
  assert set(task.splits) == {'train', 'validation'} and len(task.metric_objs) == 1
  assert tasks.target_feature(STAGE) in task.output_features
  ds = task.get_dataset(tasks.feature_lengths(STAGE), 'train', shuffle=False)
  # Under training without end; otherwise each of the two clips once.
  assert len(list(ds.take(7).as_numpy_iterator())) == (7 if fresh else 2)


def test_packing_and_other_lengths_are_refused(directory):
  import tensorflow as tf

  from v2meow_jax import errors

  with pytest.raises(errors.ConfigError, match='nothing to pack'):
    tasks.converter(STAGE)(pack=True)
  with pytest.raises(errors.ConfigError, match='task_feature_lengths'):
    tasks.converter(STAGE)(pack=False)(tf.data.Dataset.range(1), {TOKENS.name: 7})
