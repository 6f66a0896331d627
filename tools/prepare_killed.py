"""Kills `v2meow prepare` at random, goes on with the same command, and compares with one that was left alone.

python tools/prepare_killed.py --media data/demo/big_buck_bunny.mp4 --out=/tmp/killed --kills=10
python tools/prepare_killed.py --media data/demo/big_buck_bunny.mp4 --out=/tmp/killed --kills=10 --ray=local

Ends with 1 where a file differs. What a killed writer leaves behind under a temporary name is not compared.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from v2meow_jax import terminal


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--media', type=pathlib.Path, nargs='+', required=True, help='films')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='an empty folder')
  parser.add_argument('--copies', type=int, default=6, help='rows of each film')
  parser.add_argument('--kills', type=int, default=10)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--bundle', default='data/tiny')
  parser.add_argument('--streams', default='video/motion,audio/waveform,audio/acoustic,audio/semantic')
  parser.add_argument('--ray', help='as of v2meow prepare, for the runs that are killed')
  args = parser.parse_args(argv)
  args.out.mkdir(parents=True, exist_ok=True)
  films = [(f'{path.stem}-{n}', path.resolve()) for path in args.media for n in range(args.copies)]
  rows = [{'id': name, 'video': str(path)} for name, path in films]
  (args.out / 'm.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  command = [sys.executable, '-m', 'v2meow_jax', 'prepare', f'--manifest={args.out / "m.jsonl"}']
  command += [f'--bundle={args.bundle}', f'--streams={args.streams}', '--clip_seconds=5', '--clips_a_part=1']
  whole, killed = args.out / 'whole', args.out / 'killed'
  for folder in (whole, killed):
    shutil.rmtree(folder, ignore_errors=True)
  subprocess.run([*command, f'--out={whole}', '--workers=2'], check=True)
  chance = random.Random(args.seed)
  command += [f'--out={killed}', '--workers=2'] + ([f'--ray={args.ray}'] if args.ray else [])
  for number in range(args.kills):
    process = subprocess.Popen(command, start_new_session=True)
    # Somewhere in the next part or two, wherever those are.
    wanted = parts_of(killed) + chance.randint(1, 3)
    while parts_of(killed) < wanted and process.poll() is None:
      time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.5))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)  # workers hear of it
    print(f'killed {number + 1}: {parts_of(killed)} records of parts are there', flush=True)
  subprocess.run(command, check=True)
  differing = [name for name, data in content(whole).items() if content(killed).get(name) != data]
  extra = [name for name in content(killed) if name not in content(whole)]
  print(
    json.dumps({'kills': args.kills, 'files': len(content(whole)), 'differing': differing, 'extra': extra})
  )
  return int(bool(differing or extra))


def parts_of(directory: pathlib.Path) -> int:
  """Records of parts that count, of all streams."""
  return len(list(directory.rglob('*.tfrecord.index.npy')))


def content(directory: pathlib.Path) -> dict[str, bytes]:
  """Files by name, those of killed writers left out."""
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file() and path.suffix != '.tmp'
  }


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
