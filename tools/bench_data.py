"""Crops a second from a prepared dataset: straight from the shards, and through SeqIO.

  python tools/bench_data.py --dataset=DIR --gin_file=recipes/tiny_coarse.gin --seconds=10

The limit beside them is a plain loop that copies the same bytes out of the page cache.
"""

import argparse
import dataclasses
import os
import sys
import time
from fractions import Fraction

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

import gin
from v2meow_jax import terminal
from v2meow_jax.experiment import configuration, experiment


def rate(iterator, batch_size: int, seconds: float) -> float:
  """Examples a second of wall time, after a warm-up of one batch."""
  next(iterator)
  began, count = time.perf_counter(), 0
  while time.perf_counter() - began < seconds:
    next(iterator)
    count += batch_size
  return count / (time.perf_counter() - began)


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--dataset', required=True)
  parser.add_argument('--gin_file', default='recipes/tiny_coarse.gin', help='whose stage is read')
  parser.add_argument('--crop_seconds', type=float, default=10.0)
  parser.add_argument('--batch_size', type=int, default=32)
  parser.add_argument('--seconds', type=float, default=8.0, help='a measurement')
  args = parser.parse_args(argv)
  bindings = ['MODEL_DIR=""', f'DATASET_DIR={args.dataset!r}']
  settings = argparse.Namespace(gin_file=[args.gin_file], bindings=bindings, gin_search_paths='')
  configuration.load(settings, roots=[experiment.train.__name__])
  from v2meow_jax.data.batches import stage_batches
  from v2meow_jax.data.seqio_batches import SeqioBatches

  stage = gin.get_configurable('Stage')()
  stage = dataclasses.replace(stage, crop_seconds=Fraction(args.crop_seconds))
  through = SeqioBatches(stage, args.dataset, args.batch_size)
  plain = stage_batches(stage, args.dataset, args.batch_size)
  batch = next(plain.start(0))
  size = sum(value.nbytes for value in batch.values())
  source = np.random.default_rng(0).integers(0, 255, 64 * size, np.uint8)

  def copies():
    n = 0
    while True:
      yield source[n : n + size].copy()
      n = (n + size) % (63 * size)

  rows = {
    'through SeqIO': rate(through.start(0), args.batch_size, args.seconds),
    'straight from the shards': rate(plain.start(0), args.batch_size, args.seconds),
    'limit: copying the bytes': rate(copies(), args.batch_size, args.seconds),
  }
  streams = ', '.join(stream.name for stream in stage.streams)
  each = size / args.batch_size / 1e3
  print(f'{args.crop_seconds:g} s crops of {streams}; {each:.1f} kB each; {os.cpu_count()} cores')
  for name, value in rows.items():
    print(f'{name:<26}{value:12,.0f} crops a second')
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
