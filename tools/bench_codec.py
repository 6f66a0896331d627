"""Times our DAC and EnCodec beside transformers' on the same machine, weights and signal, in float32.

    python tools/bench_codec.py [--codecs=dac_16k,encodec_24k] [--threads=2]

Needs torch and transformers. Ratios are of medians in one run, the two in turn; GFLOP/s are the compiler's
count of our program (loops over time once) over our time, beside the fastest product of two square matrices.
"""

import argparse
import statistics
import sys
import time

import codec_parity
import jax
import jax.numpy as jnp
import numpy as np
import torch

from v2meow_jax.codec import published
from v2meow_jax.codec.codec import Codec


def seconds(run) -> float:
  began = time.perf_counter()
  run()
  return time.perf_counter() - began


def in_turn(ours, theirs, repeats: int) -> tuple[float, float]:
  """Medians of both, after one call each that is not counted."""
  ours()
  theirs()
  times = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
  return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def peak() -> float:
  """FLOP/s of a product of two square float32 matrices."""
  n = 2048
  x = jnp.ones((n, n))
  product = jax.jit(lambda x: x @ x)
  product(x).block_until_ready()
  return 2 * n**3 / min(seconds(lambda: product(x).block_until_ready()) for _ in range(5))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--codecs', default='dac_16k,encodec_24k')
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--repeats', type=int, default=5)
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  limit = peak()
  print(f'{args.threads} threads, float32; a product of two square matrices: {limit / 1e9:.0f} GFLOP/s\n')
  print(
    '| codec | signal | way | ours, s | transformers, s | ratio | times real time | GFLOP/s | of the peak |'
  )
  print('|---|---|---|---|---|---|---|---|---|')
  for name in args.codecs.split(','):
    model, arrays, settings = codec_parity.make(name, small=False)
    codec = Codec(*published.convert(arrays, settings))
    for batch, length in ((1, 10), (4, 3)):
      x = codec_parity.sound(np.random.default_rng(0), batch, length * codec.sample_rate)
      audio = x.numpy().transpose(0, 2, 1)
      codes, _ = codec_parity.theirs(model, x)
      peers = codec_parity.theirs_apart(model, x)
      ways = {
        'encode': (lambda: codec.encode(audio), codec._encode, codec._filled(audio)),  # noqa: B023
        'decode': (lambda: codec.decode(codes), codec._decode, codes.astype(np.int32)),  # noqa: B023
      }
      for way, (run, compiled, given) in ways.items():
        flops = compiled.lower(codec.weights, given).compile().cost_analysis()['flops']
        mine, other = in_turn(run, peers[way], args.repeats)
        print(
          f'| {name} | {batch} x {length} s | {way} | {mine:.3f} | {other:.3f} | {other / mine:.2f} | '
          f'{batch * length / mine:.1f} | {flops / mine / 1e9:.0f} | {flops / mine / limit:.0%} |',
          flush=True,
        )


if __name__ == '__main__':
  sys.exit(main())
