"""Crops a second from an object store, beside what the same client and server manage without us.

  python tools/bench_store.py --out=DIR --delay=0.02

A synthetic dataset is written to a disk and to a server of S3 (moto, in a process of its own, whose answers
come `--delay` seconds late, as a store's do), and crops of it are read from both. The limit is the same
ranges of the same objects asked of fsspec's client by as many threads, and nothing done with them.
"""

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Iterator

import numpy as np
from bench_data import rate
from synthetic import Synthetic

from v2meow_jax import stores, terminal
from v2meow_jax.data import preparation, table
from v2meow_jax.data.batches import ClipBatches
from v2meow_jax.streams import Stream

TESTS = pathlib.Path(__file__).parent.parent / 'tests' / 'stores'
STREAMS = (Stream('video/clip', 'embedding', 1, 512), Stream('audio/acoustic', 'tokens', 50, 4, 1024))
CROP, BATCH = 10, 32


def make_dataset(directory, clips: int) -> None:
  """Clips of half a minute."""
  directory.mkdir(parents=True, exist_ok=True)
  rows = (table.Clip(f'c{n:06d}', f's{n}', float(n), 30.0, 'train', audio='none') for n in range(clips))
  table.write(directory, rows)
  preparation.prepare_streams(directory, [Synthetic(stream) for stream in STREAMS], processes=1)


def serve(delay: float, pipe) -> None:
  """A server until the pipe says that it is enough."""
  sys.path.insert(0, str(TESTS))
  import servers

  with servers.store('s3') as (address, proxy, environment):
    pipe.send((address, environment))
    while pipe.recv() == 'delay':
      # Out of its memory, as moto itself manages but some fifty answers a second.
      proxy.delay, proxy.remembered = delay, {}
      pipe.send('done')


def crops(directory, seconds: float, at_once: int) -> float:
  """Crops a second, after a first batch."""
  stores.AT_ONCE = at_once
  return rate(ClipBatches(str(directory), STREAMS, CROP, BATCH, seed=0).start(0), BATCH, seconds)


def ranges(directory, seconds: float, at_once: int) -> float:
  """As many ranges as crops have, a second, by the client alone; in crops."""
  store = stores.filesystem(directory)
  names = sorted(name for name in store.find(str(directory)) if '.tfrecord' in name)
  sizes = {name: store.size(name) for name in names}
  rng = np.random.default_rng(0)

  def wanted() -> Iterator[tuple[str, None, int, int]]:
    for stream in itertools.cycle(STREAMS):
      mine = [name for name in names if stream.name.replace('/', '_') in name] or names
      name = mine[rng.integers(len(mine))]
      size = stream.length(CROP) * stream.width * 2
      begin = int(rng.integers(max(1, sizes[name] - size)))
      yield name, None, begin, begin + size  # of the newest version

  began, count, source = time.perf_counter(), 0, wanted()
  with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
    while time.perf_counter() - began < seconds:
      asked = [pool.submit(store.cat_file, *next(source)) for _ in range(4 * at_once)]
      count += sum(bool(one.result()) for one in asked)
  return count / len(STREAMS) / (time.perf_counter() - began)


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=pathlib.Path, required=True, help='a folder for the local dataset')
  parser.add_argument('--clips', type=int, default=400)
  parser.add_argument('--delay', type=float, default=0.02, help='seconds that each answer comes late')
  parser.add_argument('--seconds', type=float, default=8.0, help='a measurement')
  args = parser.parse_args(argv)
  if not args.out.exists():
    make_dataset(args.out, args.clips)
  here, there = multiprocessing.get_context('spawn').Pipe()
  server = multiprocessing.get_context('spawn').Process(target=serve, args=(args.delay, there), daemon=True)
  server.start()
  address, environment = here.recv()
  os.environ.update(environment)
  remote = stores.address(f'{address}/bench')
  make_dataset(remote, args.clips)
  here.send('delay')
  here.recv()
  told = {
    'crop_seconds': CROP,
    'delay_seconds': args.delay,
    'local': crops(args.out, args.seconds, 32),
    'store, 32 at once': crops(remote, args.seconds, 32),
    'limit: the client alone, 32 at once': ranges(remote, args.seconds, 32),
    'store, one at a time': crops(remote, args.seconds, 1),
    'limit: the client alone, one at a time': ranges(remote, args.seconds, 1),
  }
  here.send('enough')
  server.join()
  print(json.dumps(told, indent=1))
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
