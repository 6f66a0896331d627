"""Mixtures: exact shares, one position, and rates that change without changing what came before."""

import itertools
from collections import Counter
from fractions import Fraction

import jax
import numpy as np
import optax
import pytest

from v2meow_jax import errors
from v2meow_jax.data import mixture, preparation, table
from v2meow_jax.data.batches import ClipBatches
from v2meow_jax.data.mixture import Mixture
from v2meow_jax.models.trainable import StageTrainable, token_losses
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.training import metrics

pytest.importorskip('tensorflow_datasets', reason='part of the extra "train"')

TOKENS = Stream('audio/semantic', 'tokens', 5, 1, 64)


class Own:
  """Tokens by which a dataset's clips are known."""

  stream = TOKENS

  def __init__(self, first, identity='own'):
    self.first, self.identity = first, {'encoder': identity}

  def encode_clip(self, clip):
    return np.full((TOKENS.length(clip.duration), 1), self.first + int(clip.audio_path))


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
  found = []
  for number, clips in enumerate((7, 3, 5)):
    path = tmp_path_factory.mktemp(f'part{number}')
    table.write(path, [table.Clip(f'c{n}', f's{n}', 0.0, 4.0, 'train', audio=str(n)) for n in range(clips)])
    preparation.prepare_streams(path, [Own(20 * number)], processes=1)
    found.append(ClipBatches(str(path), (TOKENS,), Fraction(2), 1, seed=number))
  return tuple(found)


def mixed(parts, rates=(3, 1, 0.5), **changed):
  settings = {'names': tuple('abc')[: len(parts)], 'rates': rates, 'batch_size': 4, 'seed': 9}
  return Mixture(parts, **(settings | changed))


def test_shares_are_exact_and_each_dataset_comes_in_its_own_order(parts):
  made = mixed(parts)
  assert mixture.shares((3, 1, 0.5), 'abc') == (6, 2, 1)
  places = [made.place(n) for n in range(900)]
  for block in range(100):
    assert Counter(dataset for dataset, _ in places[9 * block : 9 * block + 9]) == {0: 6, 1: 2, 2: 1}
  for dataset, share in enumerate((6, 2, 1)):
    assert [number for which, number in places if which == dataset] == list(range(share * 100))
  assert len({tuple(which for which, _ in places[9 * b : 9 * b + 9]) for b in range(100)}) > 20
  batch = next(made.start(0))
  assert {name: value.shape for name, value in batch.items()} == {
    n: x.shape for n, x in made.shapes().items()
  }


def test_it_goes_on_from_any_number_on_any_hosts(parts):
  made = mixed(parts)
  whole = list(itertools.islice(made.start(0), 12))
  later = next(made.start(4 * 7))
  halves = [next(made.start(4 * 7, rows)) for rows in ((0, 1), (2, 3))]
  for name, value in whole[7].items():
    np.testing.assert_array_equal(value, later[name])
    np.testing.assert_array_equal(value, np.concatenate([half[name] for half in halves]))
  for batch in whole:
    which = batch[TOKENS.name][:, 0, 0] // 20
    for number, name in enumerate('abc'):
      np.testing.assert_array_equal(batch[f'dataset/{name}'], which == number)


def test_rates_change_at_a_step_and_only_from_there_on(parts):
  plain, changed = mixed(parts), mixed(parts, changes=((5, (0, 1, 1)), (8, (1, 0, 0))))
  before = [plain.place(n) for n in range(20)]
  places = [changed.place(n) for n in range(60)]
  assert places[:20] == before
  assert {which for which, _ in places[20:32]} == {1, 2} and {which for which, _ in places[32:]} == {0}
  for dataset in range(3):
    numbers = [number for which, number in places if which == dataset]
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(
  ('changed', 'told'),
  [
    ({'rates': (1, 2)}, '3 datasets need as many rates'),
    ({'rates': (0, 0, 0)}, 'not all 0'),
    ({'rates': (1, -1, 1)}, 'none of them negative'),
    ({'rates': (0.999, 0.998, 0.997)}, None),
    ({'rates': (1, 0.991, 0.0997)}, 'take rounder ones'),
    ({'names': ('a', 'a', 'b')}, 'a name of its own'),
    ({'changes': ((5, (1, 1, 1)), (5, (1, 1, 1)))}, 'do not rise'),
    ({'changes': ((5, (1, 1)),)}, 'as many rates'),
    ({'batch_size': 0}, 'positive batch_size'),
  ],
)
def test_what_does_not_hold_is_refused(parts, changed, told):
  if told is None:
    mixed(parts, **changed)
    return
  with pytest.raises(errors.ConfigError, match=told):
    mixed(parts, **changed)


def test_parts_must_be_alike(parts, tmp_path):
  longer = ClipBatches(parts[0].dataset_dir, (TOKENS,), Fraction(3), 1)
  with pytest.raises(errors.ConfigError, match='different streams or crops'):
    mixed((parts[0], longer), rates=(1, 1))
  table.write(tmp_path, [table.Clip('c', 's', 0.0, 4.0, 'train', audio='1')])
  preparation.prepare_streams(tmp_path, [Own(0, 'another')], processes=1)
  other = ClipBatches(str(tmp_path), (TOKENS,), Fraction(2), 1)
  with pytest.raises(errors.DatasetError, match='made by another encoder'):
    mixed((parts[0], other), rates=(1, 1)).describe()


def test_each_dataset_has_its_loss(parts):
  made = mixed(parts)
  stage = Stage(name='semantic', conditions=(), target=Target(TOKENS), crop_seconds=2)
  config = TransformerConfig(layers=1, width=16, heads=2, mlp=32)
  trainable = StageTrainable(stage, config, optax.sgd(0.1))
  batch = next(made.start(0))
  state = jax.tree.map(lambda x: getattr(x, 'value', x), trainable.init(jax.random.key(0), batch),
                       is_leaf=lambda x: hasattr(x, 'names'))  # fmt: skip
  found = jax.device_get(trainable.evaluate(state, batch))
  logits = trainable.model.apply({'params': state['params']}, batch)
  losses = np.asarray(token_losses(logits, batch[TOKENS.name]))
  for number, name in enumerate('abc'):
    mine = batch[f'dataset/{name}']
    expected = losses[mine].mean() if mine.any() else np.nan
    np.testing.assert_allclose(found[f'loss_dataset/{name}'], expected, rtol=1e-5, err_msg=str(number))
  rows = [{'loss': 1.0, 'loss_dataset/a': 2.0}, {'loss': 2.0, 'loss_dataset/a': np.nan}]
  assert metrics.mean(rows) == {'loss': 1.5, 'loss_dataset/a': 2.0}
  assert np.isnan(metrics.mean([{'loss': np.nan}, {'loss': 1.0}])['loss'])
