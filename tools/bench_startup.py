"""Times `v2meow generate` from the start of its process, as a user waits for it, and where the time goes.

    python tools/bench_startup.py --bundle=data/bach --video=data/demo/big_buck_bunny.mp4 --seconds=10

Every run is a process of its own, and may keep what Python compiles, whatever this environment says of that;
a first one, which may have to compile, is told apart. The limit is a process that imports JAX and Flax, asks
for devices and ends; `imports` is a command that only prints its help. A part's time is when it ended; the
first stage begins when the last stream of the video has been read.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import timing

COMMAND = [sys.executable, '-m', 'v2meow_jax', 'generate']
# Ends at once, without Python's taking apart of what was imported.
JAX = 'import gc, os; gc.disable(); import jax, flax.linen; jax.devices(); os._exit(0)'
VARIABLES = {name: value for name, value in os.environ.items() if name != 'PYTHONDONTWRITEBYTECODE'}


def run(video: str, bundle: str, seconds: float, seed: int) -> dict[str, float]:
  """Seconds after the start of the process at which it said something, and at which it ended."""
  with tempfile.TemporaryDirectory() as folder:
    asked = [video, '--bundle', bundle, '--out', folder, '--duration', str(seconds), '--seed', str(seed)]
    began, said = time.perf_counter(), {}
    with subprocess.Popen(
      [*COMMAND, *asked],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      bufsize=1,
      env=VARIABLES,
    ) as process:
      assert process.stdout is not None
      for line in process.stdout:
        part = re.match(r'(\S+): (\d+) of \2$', line)
        said[part[1] if part else line.split()[0]] = time.perf_counter() - began
    if process.returncode:
      raise SystemExit(f'bench_startup: v2meow generate ended with status {process.returncode}')
    written = next((at for name, at in said.items() if name.startswith(folder)), float('nan'))
    told = {name: at for name, at in said.items() if '.' not in name and name not in ('load', 'about')}
    return {'loaded': said['about'], **told, 'written': written, 'ended': time.perf_counter() - began}


def alone(command: list[str], repeats: int) -> float:
  """Median seconds of a command."""
  times = []
  for _ in range(repeats):
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=VARIABLES)
    times.append(time.perf_counter() - began)
  return statistics.median(times)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--bundle', default='data/bach')
  parser.add_argument('--video', default='data/demo/big_buck_bunny.mp4')
  parser.add_argument('--seconds', type=float, default=10.0)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--json', help='a file to which rows are appended')
  args = parser.parse_args()
  if not pathlib.Path(args.video).is_file() or args.repeats < 1:
    parser.error(f'{args.video} is no file, or there is nothing to repeat')
  first = run(args.video, args.bundle, args.seconds, 0)
  timing.tell({'first_run_s': first['ended']}, args.json)
  rows = [run(args.video, args.bundle, args.seconds, seed) for seed in range(1, args.repeats + 1)]
  middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
  limit, imports = (alone(it, args.repeats) for it in ([sys.executable, '-c', JAX], [*COMMAND, '--help']))
  middle = {'limit': limit, 'imports': imports} | middle
  timing.tell({'music_s': args.seconds} | {f'{name}_s': at for name, at in middle.items()}, args.json)
  return 0


if __name__ == '__main__':
  sys.exit(main())
