"""Times the making of some seconds of music at full size: three stages and a codec, random weights and video.

    python tools/bench_generate.py --seconds=10 --dtype=bfloat16 [--rows=16] [--json=FILE]

What encoders and files cost is left out: conditions are random numbers. Programs are compiled by a first run.
"""

import argparse
import sys
import time
from fractions import Fraction

import numpy as np
import recipes
import timing

from v2meow_jax import errors, runtime
from v2meow_jax.generation import decode, guidance
from v2meow_jax.generation.elements import Elements
from v2meow_jax.generation.request import Piece
from v2meow_jax.generation.score import Score
from v2meow_jax.sampling import Sampling


def piece(runners, seconds: Fraction, seed: int) -> Piece:
  """A request whose conditions, those that no stage makes, are random."""
  rng, made = np.random.default_rng(seed), {runner.stage.target.stream.name for runner in runners}
  streams, given = {}, set()
  for runner in runners:
    for condition in runner.stage.conditions:
      stream = condition.stream
      if stream.name not in made:
        shape = (stream.length(seconds), stream.width)
        values = rng.standard_normal(shape, np.float32)
        streams[stream.name] = Elements([values if stream.kind == 'embedding' else values.astype(np.int32)])
        given.add(guidance.group_of(condition))
  return Piece(seconds, streams, frozenset(given), {}, seed, None)


def main() -> int:
  runtime.begin()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--stages', default='v2meow_semantic,v2meow_coarse,v2meow_fine', help='recipes')
  parser.add_argument('--codec', default='soundstream_24k', help='a recipe')
  parser.add_argument('--seconds', type=int, default=10)
  parser.add_argument('--pieces', type=int, default=1, help='that are made side by side')
  parser.add_argument('--dtype', default='bfloat16')
  parser.add_argument('--rows', type=int, default=16)
  parser.add_argument('--top_k', type=int, default=100)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--json', help='a file to which rows are appended')
  args = parser.parse_args()
  try:
    sampling = Sampling(top_k=args.top_k)
    runners = [
      recipes.random_stage(recipes.inspected(name)[0], args.dtype, sampling)
      for name in args.stages.split(',')
    ]
    codec = recipes.random_codec(recipes.inspected(args.codec)[0])
  except errors.InputError as error:
    print(f'bench_generate: {error}', file=sys.stderr)
    return 2
  seconds, acoustic = Fraction(args.seconds), runners[-1].stage.target.stream
  rows = []
  for repeat in range(args.repeats + 1):
    pieces = [piece(runners, seconds, seed) for seed in range(args.pieces)]
    began = time.perf_counter()
    score = Score(runners, [sampling] * len(runners), pieces, decode.generate_here, rows=args.rows)
    score.fill(seconds)
    middle = time.perf_counter()
    codes = np.stack([score.read(n, acoustic, 0, acoustic.length(seconds)) for n in range(args.pieces)])
    codec.decode(codes[..., : codec.stream.width])
    ended = time.perf_counter()
    rows.append(score.seconds | {'codec': ended - middle, 'all': ended - began})
    if not repeat:
      timing.tell({'first_run_s': ended - began}, args.json)
  # The fill of a later stage holds the earlier ones' times.
  middle_row = sorted(rows[1:], key=lambda row: row['all'])[(len(rows) - 1) // 2]
  told = {f'{name}_s': value for name, value in middle_row.items()}
  music = args.seconds * args.pieces
  timing.tell(
    {'dtype': args.dtype, 'music_s': music, **told, 'times_real_time': music / middle_row['all']}, args.json
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
