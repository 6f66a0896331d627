"""Times codecs: DAC and EnCodec beside transformers', same weights and signal; or recipes' codecs alone.

    python tools/bench_codec.py [--codecs=dac_16k,encodec_24k] [--threads=2]
    python tools/bench_codec.py --no_peer [--recipes=soundstream_24k,magnitude_24k]

The peer needs torch and transformers. Ours runs as a command does, the peer as it comes, in a process of
its own. Ratios are of medians in one run in float32, the two in turn; FLOP/s are the compiler's count of
our program (loops over time once) over our time, beside a product of two square matrices.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import recipes
import timing

from v2meow_jax import errors, runtime, workers
from v2meow_jax.codec import published
from v2meow_jax.codec.codec import Codec


def seconds(run: Callable[[], object]) -> float:
  """Time of a call."""
  began = time.perf_counter()
  run()
  return time.perf_counter() - began


@functools.lru_cache(1)
def made(name: str, threads: int) -> tuple:
  """What `codec_parity.make` makes, of the same weights in every process."""
  import codec_parity
  import torch

  torch.set_num_threads(threads)
  return codec_parity.make(name, small=False)


@functools.lru_cache(1)
def theirs(name: str, threads: int, batch: int, length: int) -> dict[str, Callable[[], object]]:
  """The peer's ways, of the weights and the signal that ours have."""
  import codec_parity

  model, _, settings = made(name, threads)
  x = codec_parity.sound(np.random.default_rng(0), batch, length * settings['sampling_rate'])
  return codec_parity.theirs_apart(model, x)


def peer_seconds(way: str, *about: Any) -> float:
  """Time of one of the peer's calls; `about` is what `theirs` takes."""
  return seconds(theirs(*about)[way])


def ways(codec: Codec, audio: np.ndarray) -> dict:
  """way -> (a call that waits for its result, FLOPs of it)."""
  codes = codec.encode(audio)
  counted = {
    'encode': codec._encode.jitted.lower(codec.weights, codec._filled(audio)),
    'decode': codec._decode.jitted.lower(codec.weights, codes.astype(np.int32)),
  }
  flops = {
    way: (lowered.compile().cost_analysis() or {}).get('flops', np.nan) for way, lowered in counted.items()
  }
  return {
    'encode': (lambda: codec.encode(audio), flops['encode']),
    'decode': (lambda: codec.decode(codes), flops['decode']),
  }


def told(name: str, way: str, shape: tuple[int, float], mine: float, flops: float, peak: float) -> dict:
  """A row of results."""
  batch, length = shape
  return {
    'codec': name, 'batch': batch, 'seconds': length, 'way': way, 'ours_s': mine,
    'times_real_time': batch * length / mine, 'gflops': flops / mine / 1e9,
    'of_the_peak': flops / mine / peak,
  }  # fmt: skip


def beside_transformers(args: argparse.Namespace, peak: float) -> None:
  """Published codecs."""
  try:
    import codec_parity
  except ImportError as error:
    raise errors.ConfigError('the peer needs torch and transformers; --no_peer leaves it out') from error
  with workers.pool(1) as peer:
    for name in args.codecs.split(','):
      _, arrays, settings = made(name, args.threads)
      codec = Codec(*published.convert(arrays, settings))
      for batch, length in ((1, 10), (4, 3)):
        x = codec_parity.sound(np.random.default_rng(0), batch, length * codec.sample_rate)
        for way, (run, flops) in ways(codec, x.numpy().transpose(0, 2, 1)).items():
          about = way, name, args.threads, batch, length
          # In turn, after one call each that is not counted.
          times = [
            (seconds(run), peer.submit(peer_seconds, *about).result()) for _ in range(args.repeats + 1)
          ]
          mine, other = (statistics.median(each) for each in zip(*times[1:], strict=True))
          row = told(name, way, (batch, length), mine, flops, peak)
          timing.tell(row | {'transformers_s': other, 'ratio': other / mine}, args.json)


def alone(args: argparse.Namespace, peak: float) -> None:
  """Recipes' codecs, of random weights."""
  for name in args.recipes.split(','):
    codec = recipes.random_codec(recipes.inspected(name)[0])
    for batch in (1, 16):
      shape = (batch, int(args.seconds * codec.sample_rate), codec.config.channels)
      audio = (0.2 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
      for way, (run, flops) in ways(codec, audio).items():
        mine = timing.median_seconds(run, args.repeats)
        timing.tell(told(name, way, (batch, args.seconds), mine, flops, peak), args.json)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--codecs', default='dac_16k,encodec_24k')
  parser.add_argument('--recipes', default='soundstream_24k,magnitude_24k')
  parser.add_argument('--no_peer', action='store_true', help="recipes' codecs instead of published ones")
  parser.add_argument('--seconds', type=float, default=10.0, help="of sound, for recipes' codecs")
  parser.add_argument('--threads', type=int, default=2)
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--json', help='a file to which rows are appended')
  args = parser.parse_args()
  runtime.begin()
  try:
    (alone if args.no_peer else beside_transformers)(args, timing.product_flops())
  except errors.InputError as error:
    print(f'bench_codec: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
