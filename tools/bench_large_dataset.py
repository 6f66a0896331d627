"""What a dataset of millions of clips costs to open and to read from.

  python tools/bench_large_dataset.py make --out=DIR --clips=1800000
  python tools/bench_large_dataset.py open --dataset=DIR

`make` writes a synthetic dataset of ten-second clips with tokens and motion features, through the same code
as `v2meow prepare`; it can be interrupted and goes on. `open` measures, in a process of its own, what
training does at its start and at every evaluation: seconds, peak memory beyond the imports', open files.
"""

import argparse
import os
import pathlib
import resource
import sys
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

from v2meow_jax import terminal
from v2meow_jax.data import preparation, table
from v2meow_jax.data.batches import ClipBatches
from v2meow_jax.streams import Stream

TOKENS = Stream('audio/semantic', 'tokens', 25, 1, 512)
MOTION = Stream('video/motion', 'embedding', 4, 14)
SECONDS = 10.0


class Synthetic:
  """Elements that are a cut of one fixed array; which, is the clip's."""

  def __init__(self, stream: Stream):
    self.stream, self.identity = stream, {'encoder': 'synthetic', 'stream': stream.name}
    length = stream.length(SECONDS)
    rng = np.random.default_rng(0)
    if stream.kind == 'tokens':
      self._values = rng.integers(0, stream.codes, (length + 1000, 1))
    else:
      self._values = rng.normal(size=(length + 1000, stream.width))

  def encode_clip(self, clip) -> np.ndarray:
    first = hash(clip.start) % 1000
    return self._values[first : first + self.stream.length(SECONDS)]


def make(args: argparse.Namespace) -> None:
  """Writes the dataset."""
  args.out.mkdir(parents=True, exist_ok=True)
  if not (args.out / 'clips.jsonl').exists():
    # A source is ten minutes long: its clips adjoin.
    table.write(
      args.out,
      (
        table.Clip(
          f'film{n // 60:06d}-{n % 60:04d}', f'film{n // 60:06d}', SECONDS * (n % 60), SECONDS,
          'validation' if n // 60 % 200 == 199 else 'train', audio='none',
        )
        for n in range(args.clips)
      ),
    )  # fmt: skip
  made = [Synthetic(TOKENS), Synthetic(MOTION)]
  preparation.prepare_streams(args.out, made, processes=args.processes, clips_a_part=2048)


def _files() -> int:
  return len(os.listdir('/proc/self/fd'))


def _memory() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(args: argparse.Namespace) -> None:
  """Prints what opening and reading cost."""
  memory, files = _memory(), _files()
  rows = []

  def timed(name: str, work):
    began = time.perf_counter()
    found = work()
    rows.append((name, time.perf_counter() - began, _memory() - memory, _files() - files))
    return found

  batches = ClipBatches(str(args.dataset), (TOKENS, MOTION), 30, args.batch_size)
  checks = ClipBatches(str(args.dataset), (TOKENS, MOTION), 30, args.batch_size, 'validation')
  timed('tables and indexes of both splits', lambda: (batches.source(), checks.source()))
  timed('fingerprint', batches.fingerprint)
  timed('padding', batches.padding)
  iterator = timed('order', lambda: batches.start(0))
  timed('first batch', lambda: next(iterator))
  again = timed('an evaluation begins', lambda: checks.start(0))
  timed('its first batch', lambda: next(again))
  count = args.crops // args.batch_size
  began = time.perf_counter()
  timed(f'{count * args.batch_size} crops', lambda: [next(iterator) for _ in range(count)])
  seconds = time.perf_counter() - began
  print(f'{len(batches.source()):,} clips in split train, {len(checks.source()):,} in validation')
  print(f'{"":36}{"seconds":>9}{"MB more":>9}{"files more":>11}')
  for name, each, more, opened in rows:
    print(f'{name:36}{each:9.3f}{more:9.0f}{opened:11}')
  began = sum(row[1] for row in rows[:5])
  print(f'{count * args.batch_size / seconds:,.0f} crops a second; {began:.2f} s to begin')


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  commands = parser.add_subparsers(dest='command', required=True)
  making = commands.add_parser('make')
  making.add_argument('--out', type=pathlib.Path, required=True)
  making.add_argument('--clips', type=int, default=1_800_000)
  making.add_argument('--processes', type=int, default=os.cpu_count())
  opening = commands.add_parser('open')
  opening.add_argument('--dataset', type=pathlib.Path, required=True)
  opening.add_argument('--batch_size', type=int, default=32)
  opening.add_argument('--crops', type=int, default=20000)
  args = parser.parse_args(argv)
  make(args) if args.command == 'make' else measure(args)
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
