"""The computed order: a permutation an epoch, uniform crops, the same in every process."""

import collections
import subprocess
import sys
from fractions import Fraction

import numpy as np
from scipy import stats

from v2meow_jax.data import order

GOLDEN = [3, 4, 2, 5, 6, 0, 11, 7, 1, 8, 9, 10]


def test_every_clip_comes_once_an_epoch_in_another_order_each_time():
  places = [order.locate(n, 10, seed=3) for n in range(30)]
  epochs = [[clip for clip, epoch in places if epoch == e] for e in range(3)]
  assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2]
  assert [order.locate(n, 10, seed=4)[0] for n in range(10)] != epochs[0]


def test_another_process_computes_the_same():
  code = (
    'from fractions import Fraction\nfrom v2meow_jax.data import order\n'
    'print([order.locate(n, 1000, 7)[0] for n in range(990, 1010)], order.clip_hash("a"), order.fold(1, 2),'
    ' order.crop_start(order.clip_hash("a"), 1, 2, Fraction(60), Fraction(10), Fraction(4)))'
  )
  told = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  ).stdout.strip()
  here = (
    f'{[order.locate(n, 1000, 7)[0] for n in range(990, 1010)]} {order.clip_hash("a")} {order.fold(1, 2)} '
    f'{order.crop_start(order.clip_hash("a"), 1, 2, Fraction(60), Fraction(10), Fraction(4))}'
  )
  assert told == here


def test_crops_lie_on_the_grid_and_are_uniform():
  starts = [
    order.crop_start(order.clip_hash('clip'), n, 0, Fraction(12), Fraction(10), Fraction(4))
    for n in range(9000)
  ]
  counts = collections.Counter(starts)
  assert sorted(counts) == [Fraction(n, 4) for n in range(9)]
  # Fixed seed: the p-value is a constant, and far from either end.
  assert 0.01 < stats.chisquare(list(counts.values())).pvalue < 0.99


def test_a_clip_shorter_than_the_crop_starts_at_its_beginning():
  assert order.crop_start(order.clip_hash('clip'), 5, 0, Fraction(3), Fraction(10), Fraction(4)) == 0


def test_the_hash_spreads_over_all_bits():
  values = np.array([order.fold(n, 1) for n in range(4000)], np.uint64)
  bits = (values[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
  # Each bit is set in half of 4,000 values; five standard deviations are 0.04.
  assert np.abs(bits.mean(0) - 0.5).max() < 0.04


def test_crops_start_at_every_place_that_fits_and_at_no_other():
  rng = np.random.default_rng(0)
  for _ in range(20):
    duration, crop = Fraction(int(rng.integers(40, 200)), 16), Fraction(int(rng.integers(8, 40)), 16)
    grid = Fraction(int(rng.integers(1, 6)))
    fits = {n / grid for n in range(100) if n / grid + crop <= duration}
    starts = {order.crop_start(order.clip_hash('clip'), n, 1, duration, crop, grid) for n in range(1000)}
    assert starts == fits


def test_a_permutation_holds_each_clip_once():
  for clips in (1, 2, 17, 1000):
    for epoch in range(3):
      assert np.bincount(order.permutation(5, epoch, clips), minlength=clips).tolist() == [1] * clips


def test_the_order_is_written_down():
  # Golden: a run that is resumed with any version of NumPy goes on with the same clips.
  assert order.permutation(7, 2, 12).tolist() == GOLDEN
  # By hand: Philox4x64-10 of the folded key, four numbers a counter, sorted.
  key = order.fold(7, 2)
  numbers = [number for counter in range(1, 4) for number in philox(counter, key)]
  assert np.argsort(np.asarray(numbers, object), kind='stable').tolist() == GOLDEN


def philox(counter: int, key: int) -> list[int]:
  """Four 64-bit numbers of Philox4x64-10 (Salmon et al. 2011, sections 4.3 and 4.4)."""
  mask = 2**64 - 1
  words, keys = [counter, 0, 0, 0], [key & mask, key >> 64]
  for _ in range(10):
    high0, low0 = divmod(0xD2E7470EE14C6C93 * words[0], 2**64)
    high1, low1 = divmod(0xCA5A826395121157 * words[2], 2**64)
    words = [high1 ^ words[1] ^ keys[0], low1, high0 ^ words[3] ^ keys[1], low0]
    keys = [(keys[0] + 0x9E3779B97F4A7C15) & mask, (keys[1] + 0xBB67AE8584CAA73B) & mask]
  return words
