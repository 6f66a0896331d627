"""Kills, stops and damages a run of several processes again and again, and then does the accounts.

  JAX_PLATFORMS=cpu python tools/soak.py --out=DIR --disturbances=200 --processes=2

A small stage is trained twice on the same synthetic data: once undisturbed, once with disturbances at random
times (drawn from --seed): SIGKILL to one process or to all, SIGTERM or SIGINT to one, and a file of the
newest checkpoint emptied, cut, changed or deleted. After each the same command goes on. Printed at the end:
whether the weights have the same bits, whether every example was read with the crop that was due, whether
every logged loss is the same, how often examples were read, and the goodput.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import signal
import socket
import sys
import time

import jax
from synthetic import Synthetic

from v2meow_jax import cli, terminal
from v2meow_jax.data import preparation, table
from v2meow_jax.data.batches import ClipBatches
from v2meow_jax.data.crops import CropSource
from v2meow_jax.streams import Stream
from v2meow_jax.training.checkpoints import restore_arrays

BATCH, DEVICES = 8, 4
EVERY = 5  # steps between checkpoints
KINDS = ('kill one', 'kill all', 'SIGTERM', 'SIGINT', 'damage')
STREAMS = (Stream('video/motion', 'embedding', 4, 14), Stream('audio/semantic', 'tokens', 25, 1, 16))
# What the processes of a run import, once for all of them: each start would else take seconds of it.
PRELOADED = ['v2meow_jax.commands.train', 'v2meow_jax.experiment.experiment', 'v2meow_jax.data.crops']


def train(arguments: list[str], reads: pathlib.Path, told: pathlib.Path) -> None:
  """What a process of the run is: `v2meow train`, which notes what it reads."""
  with open(told, 'a') as file:
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
  read = CropSource.__getitem__

  def noted(self, n):
    if self.dataset.clips[0].split == 'train':
      with open(reads, 'a') as file:
        file.write(f'{n} {" ".join(map(str, self.place(n)))}\n')
    return read(self, n)

  CropSource.__getitem__ = noted
  sys.exit(cli.main(['train', *arguments]))


def make_dataset(directory: pathlib.Path) -> None:
  """Sixty clips of which a tenth are for validation."""
  directory.mkdir(parents=True)
  splits = ('validation' if n % 10 == 9 else 'train' for n in range(60))
  table.write(
    directory,
    (table.Clip(f'c{n}', f's{n}', float(n), 8.0, split, audio='none') for n, split in enumerate(splits)),
  )
  preparation.prepare_streams(directory, [Synthetic(stream) for stream in STREAMS], processes=1)


class Started:
  """The processes of a run, each with its share of the devices."""

  def __init__(self, args: argparse.Namespace, run: pathlib.Path, reads: pathlib.Path):
    with socket.socket() as free:
      free.bind(('localhost', 0))
      port = free.getsockname()[1]
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    settings = [
      '--gin_file=recipes/tiny_semantic.gin', f'--gin.MODEL_DIR="{run}"',
      f'--gin.DATASET_DIR="{args.out / "data"}"', '--gin.semantic/Stream.codes=16',
      '--gin.TransformerConfig.layers=1', '--gin.TransformerConfig.width=12',
      '--gin.TransformerConfig.mlp=16',
      '--gin.SEMANTIC_CROP=2', f'--gin.BATCH_SIZE={BATCH}', '--gin.WARMUP_STEPS=2',
      f'--gin.TOTAL_STEPS={args.steps}', f'--gin.Settings.checkpoint_every={EVERY}',
      '--gin.Settings.log_every=1', '--gin.Settings.eval_every=100', '--gin.Settings.eval_steps=1',
      '--gin.Settings.keep=3',
    ]  # fmt: skip
    self.processes, self.told = [], reads.with_suffix('.errors')
    for index in range(args.processes):
      many = [
        f'--coordinator_address=localhost:{port}', f'--process_count={args.processes}',
        f'--process_index={index}', '--heartbeat_seconds=8',
      ]  # fmt: skip
      arguments = [*settings, *(many if args.processes > 1 else ())]
      process = context.Process(target=train, args=(arguments, reads.with_suffix(f'.{index}'), self.told))
      process.start()
      self.processes.append(process)

  def ended(self) -> list[int] | None:
    """Exit statuses, once all have ended."""
    found = [process.exitcode for process in self.processes]
    return None if None in found else [status for status in found if status is not None]

  def wait(self, seconds: float = 300.0) -> list[int]:
    """Exit statuses; what hangs is a failure of the soak."""
    until = time.monotonic() + seconds
    while (found := self.ended()) is None:
      if time.monotonic() > until:
        for process in self.processes:
          process.kill()
        raise RuntimeError(f'a run hangs; see {self.told}')
      time.sleep(0.1)
    return found


def progress(run: pathlib.Path) -> int:
  """The newest checkpoint's step; 0 where there is none."""
  folder = run / 'checkpoints'
  steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
  return max(steps, default=0)


def damage(run: pathlib.Path, rng: random.Random) -> str:
  """Spoils one file of the newest checkpoint, where there are two; what was done."""
  folder = run / 'checkpoints'
  steps = sorted((int(path.name) for path in folder.iterdir() if path.name.isdigit()), reverse=True)
  if len(steps) < 2:
    return ''
  path = rng.choice(sorted(path for path in (folder / str(steps[0])).rglob('*') if path.is_file()))
  data, how = path.read_bytes(), rng.choice(('empty', 'cut', 'change', 'delete'))
  if how == 'delete':
    path.unlink()
  elif how == 'change' and data:
    place = rng.randrange(len(data))
    path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
  else:
    path.write_bytes(b'' if how == 'empty' else data[: len(data) // 2])
  return f'{how} {path.relative_to(folder)}'


def disturb(started: Started, run: pathlib.Path, rng: random.Random) -> str:
  """Does one thing to a run; what."""
  kind = rng.choice(KINDS)
  if kind == 'damage':
    for process in started.processes:
      process.kill()
    started.wait()
    return f'damage: {damage(run, rng)}'
  one = rng.choice(started.processes)
  if kind == 'kill all':
    for process in started.processes:
      process.kill()
  else:
    number = {'kill one': signal.SIGKILL, 'SIGTERM': signal.SIGTERM, 'SIGINT': signal.SIGINT}[kind]
    with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
      os.kill(one.pid, number)
  started.wait()
  return kind


def soak(args: argparse.Namespace) -> tuple[list[str], int]:
  """Disturbs a run until it has been often enough, and lets it end; (what was done, starts)."""
  rng, run = random.Random(args.seed), args.out / 'disturbed'
  done: list[str] = []
  starts, until_when = 0, time.monotonic() + 60 * args.minutes
  with terminal.Progress() as line:
    while True:
      started = Started(args, run, args.out / f'reads_{starts:04d}')
      starts += 1
      if len(done) < args.disturbances and time.monotonic() < until_when:
        # Some come before the first step, most after a checkpoint or two.
        until = progress(run) + EVERY * rng.choice((0, 1, 1, 2))
        early = time.monotonic() + rng.uniform(1, 12)
        while started.ended() is None and progress(run) < until:
          time.sleep(0.05)
        while until == progress(run) and started.ended() is None and time.monotonic() < early:
          time.sleep(0.05)
        if started.ended() is None:
          done.append(disturb(started, run, rng))
          line.update('disturbances', len(done), args.disturbances, f'step {progress(run)}')
          continue
      statuses = started.wait(3600)
      if statuses == [0] * args.processes:
        return done, starts
      if set(statuses) - {75, 76, 130, 143, -9}:
        raise RuntimeError(f'a run ended with {statuses}; see {started.told}')


def _losses(run: pathlib.Path) -> dict[int, float]:
  rows = map(json.loads, (run / 'metrics.jsonl').read_text().splitlines())
  return {row['step']: row['loss'] for row in rows if row['split'] == 'train'}


def accounts(args: argparse.Namespace, starts: int) -> dict:
  """What the disturbed run did, against the undisturbed one and against what was due."""
  states = [restore_arrays(args.out / name)[0] for name in ('undisturbed', 'disturbed')]
  same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), *states)
  source = ClipBatches(str(args.out / 'data'), STREAMS, 2, BATCH).source()
  wanted = {n: ' '.join(map(str, source.place(n))) for n in range(args.steps * BATCH)}
  read: dict[int, set[str]] = {}
  lines = 0
  for path in args.out.glob('reads_*.?'):
    for text in path.read_text().splitlines():
      number, _, place = text.partition(' ')
      read.setdefault(int(number), set()).add(place)
      lines += 1
  wrong = [n for n, place in wanted.items() if read.get(n) != {place}]
  ours, theirs = (_losses(args.out / name) for name in ('disturbed', 'undisturbed'))
  rows = [json.loads(row) for row in (args.out / 'disturbed' / 'metrics.jsonl').read_text().splitlines()]
  return {
    'weights, moments and guard have the same bits': all(jax.tree.leaves(same)),
    'examples that were never read, or with another crop': len(wrong),
    'logged steps': len(ours),
    'logged losses that differ': len(dict(ours.items() ^ theirs.items())),
    'reads an example': round(lines / len(wanted), 2),
    'goodput of the last start': round(rows[-1].get('goodput', rows[-2].get('goodput', 0)), 3),
    'starts': starts,
  }  # fmt: skip


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--out', type=pathlib.Path, required=True, help='a folder to be made')
  parser.add_argument('--disturbances', type=int, default=200)
  parser.add_argument('--minutes', type=float, default=600.0, help='after which it is left in peace')
  parser.add_argument('--processes', type=int, default=2, choices=(1, 2, 4))
  parser.add_argument('--steps', type=int, default=1200)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  args.out = args.out.resolve()
  # What runs behind a shell ignores it, and so would all that it starts.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  os.environ |= {
    'JAX_NUM_CPU_DEVICES': str(DEVICES // args.processes),
    'JAX_PLATFORMS': 'cpu',
  }
  make_dataset(args.out / 'data')
  began = time.monotonic()
  statuses = Started(args, args.out / 'undisturbed', args.out / 'undisturbed_reads').wait(3600)
  if statuses != [0] * args.processes:
    raise RuntimeError(f'the undisturbed run ended with {statuses}')
  quiet, began = time.monotonic() - began, time.monotonic()
  done, starts = soak(args)
  seconds = time.monotonic() - began
  kinds = {name: sum(each.startswith(name) for each in done) for name in KINDS}
  print(', '.join(f'{count} x {name}' for name, count in kinds.items()))
  for name, value in accounts(args, starts).items():
    print(f'{name}: {value}')
  print(f'undisturbed {quiet:.0f} s, disturbed {seconds:.0f} s: {quiet / seconds:.0%} of it useful')
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
