"""Trains a stage and a codec twice on this machine, once stopped in the middle, and compares every bit.

    python tools/device_resume.py [--steps=20] [--json=FILE]

Data are random numbers in memory. On a GPU set XLA_FLAGS=--xla_gpu_deterministic_ops=true, without which sums
may come in another order; both ways are worth knowing.
"""

import argparse
import itertools
import os
import pathlib
import sys
import tempfile

import jax
import numpy as np
import recipes
import timing

from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import loop
from v2meow_jax.training.checkpoints import restore_arrays


class Batches:
  """Batches of a stage or a codec, drawn by step."""

  def __init__(self, shapes: dict, codes: dict[str, int], batch_size: int):
    self._shapes, self._codes, self.batch_size = shapes, codes, batch_size

  def shapes(self) -> dict:
    """Of a batch's arrays."""
    return self._shapes

  def describe(self) -> dict:
    """What made the streams: nothing did."""
    return {}

  def start(self, position: int, rows=None):
    """Batches from an example on."""
    for step in itertools.count(position // self.batch_size):
      rng, made = np.random.default_rng(step), {}
      for name, x in self._shapes.items():
        if x.dtype == bool:
          made[name] = np.ones(x.shape, bool)
        elif np.issubdtype(x.dtype, np.integer):
          made[name] = rng.integers(0, self._codes.get(name, 2**14), x.shape).astype(x.dtype)
        else:
          made[name] = rng.standard_normal(x.shape).astype(x.dtype)
      yield made if rows is None else jax.tree.map(lambda x: x[rows], made)


def trained(recipe: str, batch: int, folder: pathlib.Path, stops: tuple[int, ...]) -> dict:
  """Arrays of a run that was stopped after each number of steps and went on."""
  for steps in stops:  # a new start each, which reads the last checkpoint
    trainable, batches = recipes.inspected(recipe, None, (f'--gin.BATCH_SIZE={batch}',))
    streams = trainable.stage.streams if hasattr(trainable, 'stage') else ()
    codes = {stream.name: stream.codes for stream in streams if stream.kind == 'tokens'}
    loop.train(
      run_dir=folder,
      trainable=trainable,
      batches=Batches(batches.shapes(), codes, batch),
      partitioner=Partitioner(),
      total_steps=steps,
      checkpoint_every=steps,
      log_every=steps,
    )
  return restore_arrays(folder)[0]


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--steps', type=int, default=20)
  parser.add_argument('--recipes', default='v2meow_small_coarse,soundstream_24k')
  parser.add_argument('--batch', type=int, default=4)
  parser.add_argument('--json', help='a file to which rows are appended')
  args = parser.parse_args()
  for recipe in args.recipes.split(','):
    with tempfile.TemporaryDirectory() as root:
      whole = trained(recipe, args.batch, pathlib.Path(root, 'whole'), (args.steps,))
      again = trained(recipe, args.batch, pathlib.Path(root, 'again'), (args.steps,))
      stopped = trained(recipe, args.batch, pathlib.Path(root, 'stopped'), (args.steps // 2, args.steps))
    row = {'recipe': recipe, 'steps': args.steps, 'xla_flags': os.environ.get('XLA_FLAGS', '')}
    for name, other in (('again', again), ('resumed', stopped)):
      pairs = list(zip(jax.tree.leaves(whole), jax.tree.leaves(other), strict=True))
      row[f'{name}_same_bits'] = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
    timing.tell(row, args.json)
  return 0


if __name__ == '__main__':
  sys.exit(main())
