"""Batches: positions, alignment of streams of different rates, padding, and mismatches in a sentence."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.data import order, preparation, table
from v2meow_jax.data.batches import ClipBatches
from v2meow_jax.streams import Stream

pytest.importorskip('tensorflow', reason='preparing is part of the extra "train"')

SLOW = Stream('video/slow', 'embedding', Fraction(4), 1)
FAST = Stream('audio/fast', 'tokens', 25, 2, 5000)
WHOLE = Stream('style', 'embedding', 0, 3)


class Clock:
  """Elements that tell their own time: seconds for embeddings, their index for tokens."""

  needs = 'audio'

  def __init__(self, stream):
    self.stream, self.identity = stream, {'encoder': 'clock', 'stream': stream.name}

  def encode_clip(self, clip):
    index = np.arange(self.stream.length(clip.duration))[:, None] + np.zeros(self.stream.width)
    return index / 4 if self.stream.kind == 'embedding' else index


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
  path = tmp_path_factory.mktemp('clock')
  clips = [table.Clip(f'c{n}', 's', 0.0, 20.0 if n else 2.2, 'train', audio='none') for n in range(7)]
  table.write(path, clips)
  preparation.prepare_streams(
    path, [Clock(s) for s in (SLOW, FAST, WHOLE)], processes=1, clips_a_part=3, shard_bytes=1
  )
  return path


def batches(directory, streams=(SLOW, FAST, WHOLE), **changed):
  settings = {'streams': streams, 'crop_seconds': 3, 'batch_size': 2}
  return ClipBatches(str(directory), **(settings | changed))


def test_starting_anywhere_continues_the_same_sequence(directory):
  whole = list(itertools.islice(batches(directory).start(0), 12))
  for position in (2, 7, 14):
    part = next(batches(directory, batch_size=1).start(position))
    for key, value in part.items():
      np.testing.assert_array_equal(value[0], whole[position // 2][key][position % 2])


def test_streams_of_different_rates_show_the_same_instant(directory):
  for batch in itertools.islice(batches(directory).start(0), 20):
    start = batch[SLOW.name][:, 0, 0]  # crops begin on the slow stream's grid
    first = batch[FAST.name][:, 0, 0] / 25
    np.testing.assert_allclose(first - start, batch[f'{FAST.name}/offset'], atol=1e-6)
    assert np.abs(batch[f'{FAST.name}/offset']).max() <= 0.02  # half an element of 25 Hz
    assert (batch[f'{SLOW.name}/offset'] == 0).all()
    assert batch[SLOW.name].shape == (2, 12, 1) and batch[FAST.name].shape == (2, 75, 2)
    assert batch[WHOLE.name].shape == (2, 1, 3)


def test_a_clip_that_ends_early_is_padded_and_masked(directory):
  found = list(itertools.islice(batches(directory, batch_size=1).start(0), 7))
  short = [batch for batch in found if not batch[f'{FAST.name}/mask'].all()]
  assert len(short) == 1
  assert short[0][f'{FAST.name}/mask'].sum() == 55 and short[0][f'{SLOW.name}/mask'].sum() == 9
  assert (short[0][FAST.name][0, 55:] == 0).all() and short[0][FAST.name][0, 54, 0] == 54


def test_seeds_differ_and_repeat(directory):
  sources = [batches(directory, seed=seed, batch_size=7) for seed in (1, 1, 2)]
  first, again, other = (next(source.start(0))[FAST.name] for source in sources)
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


@pytest.mark.parametrize(
  ('stream', 'words'),
  [
    (Stream('audio/fast', 'tokens', 50, 2, 5000), 'rate 25, not 50'),
    (Stream('audio/fast', 'tokens', 25, 3, 5000), 'width 2, not 3'),
    (Stream('audio/fast', 'tokens', 25, 2, 1024), 'codes 5000, not 1024'),
    (Stream('audio/none', 'tokens', 25, 2, 1024), "no stream 'audio/none'"),
  ],
)
def test_a_stream_that_the_model_does_not_take_is_refused(directory, stream, words):
  with pytest.raises(errors.DatasetError, match=words):
    next(batches(directory, (stream,)).start(0))


def test_missing_datasets_and_splits_are_refused(directory, tmp_path):
  with pytest.raises(errors.DatasetError, match='no clips'):
    next(batches(tmp_path).start(0))
  with pytest.raises(errors.DatasetError, match="no clip is in split 'validation'"):
    next(batches(directory, split='validation').start(0))
  with pytest.raises(errors.ConfigError, match='batch_size'):
    batches(directory, batch_size=0)


def test_a_batch_is_what_brute_force_makes_of_it(directory):
  durations = [Fraction(22, 10), *[Fraction(20)] * 6]
  for number, batch in enumerate(itertools.islice(batches(directory, batch_size=3, seed=5).start(6), 6)):
    for row in range(3):
      clip, epoch = order.locate(6 + 3 * number + row, 7, 5)
      start = order.crop_start(
        order.clip_hash(f'c{clip}'), epoch, 5, durations[clip], Fraction(3), Fraction(4)
      )
      for stream, length, value in ((SLOW, 12, lambda i: i / 4), (FAST, 75, lambda i: i)):
        # The element nearest to the start (the even one of two), to the end of the crop or the clip.
        first = min(range(600), key=lambda i: (abs(i / stream.rate - start), i % 2))
        end = min(first + length, round(durations[clip] * stream.rate))
        expected = np.zeros((length, stream.width))
        expected[: end - first] = np.array([value(i) for i in range(first, end)])[:, None]
        np.testing.assert_array_equal(batch[stream.name][row], expected)
        assert batch[f'{stream.name}/mask'][row].tolist() == [i < end - first for i in range(length)]
        # float32
        assert batch[f'{stream.name}/offset'][row] == pytest.approx(
          float(first / stream.rate - start), abs=1e-6
        )
