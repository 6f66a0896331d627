"""Times a step of our decode loop beside transformers' MusicGen decoder of the same sizes.

    python tools/bench_decode.py [--layers=24 --width=1024] [--batches=1,8,32] [--dtypes=float32,bfloat16]

Ours is the whole loop that generation runs (embedding, layers, heads, drawing) for a crop of the longest
context; a step's time is the difference of runs that end after few and after many steps. The peer's (torch
and transformers) is its forward pass and drawing, with its own growing cache. Both draw from the likeliest
100, and begin with a cache of zeros, for reading many rows of long contexts takes a hundred times as long as
the steps. Each runs in processes of its own, so that one's memory is free for the other: ours as a command
does, the peer as it comes; in turn, for a machine's speed changes within minutes. Told are medians of the
times and of the ratios. The limit is what no step can undercut: on a CPU the layers' products alone, at their
own shapes and each with its own weights; elsewhere reading weights and cache once at the speed at which an
array is summed.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import timing

from v2meow_jax import runtime, workers
from v2meow_jax.generation import decode
from v2meow_jax.models import cache as cache_lib
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.products import kept, product
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Stage, Target
from v2meow_jax.streams import Stream

LEVELS, CODES = 4, 2048
FEW, MANY = 4, 68


class Begun(StageModel):
  """The network with a cache of zeros for what it would read before the first step."""

  def prefill(self, batch, known, capacity, dropped=None):
    del dropped
    config, (rows, count) = self.config, known.shape[:2]
    rows = [] if rows == 1 else [rows]
    layer = kept(jnp.zeros((*rows, config.heads, capacity, config.width // config.heads), config.dtype))
    logits = jnp.zeros((known.shape[0], LEVELS, CODES))
    layers = [(layer, layer)] * config.layers
    return logits, cache_lib.Cache(layers, jnp.int32(self.stage.prefix_length + count + 1))


def build(args: argparse.Namespace, dtype: str, longest: int):
  """(model, parameters) of random weights, for contexts of up to `longest` steps."""
  target = Target(Stream('audio/acoustic', 'tokens', 50, LEVELS, CODES), pattern='delay')
  stage = Stage('acoustic', (), target, f'{longest + MANY + 4}/50')
  config = TransformerConfig(
    args.layers, args.width, args.heads, args.mlp, gated=False, dtype=dtype,
    transposed=jax.default_backend() == 'cpu',
  )  # fmt: skip
  model = Begun(stage, config)
  batch = {
    target.stream.name: np.zeros((1, stage.frames, LEVELS), np.int32),
    f'{target.stream.name}/offset': np.zeros(1, np.float32),
  }
  shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))['params']
  rng = np.random.default_rng(0)
  made = jax.tree.map(lambda x: jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32), dtype), shapes)
  return model, made


def ours(model: StageModel, params, batch: int, context: int, sampling: Sampling):
  """A function of the number of steps that runs them after `context` known ones."""
  name, frames = model.stage.target.stream.name, model.stage.frames
  known = np.random.default_rng(1).integers(0, CODES, (batch, frames, LEVELS)).astype(np.int32)
  keys = jax.random.split(jax.random.key(0), batch)
  offset = {f'{name}/offset': np.zeros(batch, np.float32)}

  def run(steps: int):
    decode.generate_here(
      model, params, offset, known, np.full(batch, context, np.int32), keys, np.int32(context + steps),
      sampling.knobs(), None, np.zeros((1, 0), bool), np.ones(1, np.float32),
      prefilled=context, candidates=sampling.candidates(CODES),
    ).block_until_ready()  # fmt: skip
    runtime.give_back()

  return run


def peer_seconds(args: argparse.Namespace, dtype: str, batch: int, context: int) -> float:
  """Time of one of the peer's steps."""
  import torch
  from transformers import DynamicCache, EncoderDecoderCache, MusicgenDecoderConfig, MusicgenForCausalLM

  config = MusicgenDecoderConfig(
    vocab_size=CODES, num_codebooks=LEVELS, num_hidden_layers=args.layers, hidden_size=args.width,
    num_attention_heads=args.heads, ffn_dim=args.mlp, max_position_embeddings=context + MANY + 4,
  )  # fmt: skip
  torch.manual_seed(0)
  place = 'cuda' if torch.cuda.is_available() else 'cpu'
  model = MusicgenForCausalLM(config).eval().to(place, getattr(torch, dtype))
  cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
  shape = batch, args.heads, context, args.width // args.heads
  for layer in range(args.layers):
    zeros = torch.zeros(shape, dtype=model.dtype, device=place)
    cache.self_attention_cache.update(zeros, zeros, layer)

  def drawn(logits):
    logits = logits.float()
    if args.top_k:  # as TopKLogitsWarper does it
      logits = logits.masked_fill(logits < torch.topk(logits, args.top_k)[0][..., -1:], -torch.inf)
    return torch.multinomial(torch.softmax(logits, -1), 1)

  with torch.inference_mode():
    ids = torch.randint(0, CODES, (batch * LEVELS, 1), device=place)
    times = []
    for _ in range(MANY):
      began = time.perf_counter()
      out = model(input_ids=ids, past_key_values=cache, use_cache=True)
      ids = drawn(out.logits[:, -1])
      ids[0, 0].item()  # waits for a GPU
      times.append(time.perf_counter() - began)
  return statistics.median(times)


def step_seconds(run, repeats: int) -> float:
  """Time of one step."""

  def timed(steps: int) -> float:
    began = time.perf_counter()
    run(steps)
    return time.perf_counter() - began

  timed(FEW)
  differences = [timed(MANY) - timed(FEW) for _ in range(repeats)]
  return statistics.median(differences) / (MANY - FEW)


def limit(model: StageModel, params, batch: int, context: int) -> float:
  """Seconds of a step below which none can be; see the module's docstring."""
  weights = [leaf for leaf in jax.tree.leaves(params['transformer']) if leaf.ndim == 2]
  if jax.default_backend() != 'cpu':
    held = 2 * batch * context * model.config.width * model.config.layers * weights[0].dtype.itemsize
    return (sum(leaf.nbytes for leaf in weights) + held) / timing.read_bandwidth()

  @jax.jit
  def products(xs, weights):
    return [product(xs[kernel.shape[1]], kernel) for kernel in weights]

  xs = {width: jnp.ones((batch, width), weights[0].dtype) for width in {w.shape[1] for w in weights}}
  return timing.median_seconds(lambda: jax.block_until_ready(products(xs, weights)), 5)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, value in (('layers', 24), ('width', 1024), ('heads', 16), ('mlp', 4096), ('repeats', 3)):
    parser.add_argument(f'--{name}', type=int, default=value)
  parser.add_argument('--batches', default='1,8,32')
  parser.add_argument('--contexts', default='64,512,2048')
  parser.add_argument('--dtypes', default='float32,bfloat16')
  parser.add_argument('--top_k', type=int, default=100, help='tokens that are drawn from; 0: all')
  parser.add_argument('--no_peer', action='store_true')
  parser.add_argument('--json', help='a file to which rows are appended')
  args = parser.parse_args()
  if not args.no_peer and not all(map(importlib.util.find_spec, ('torch', 'transformers'))):
    print('bench_decode: the peer needs torch and transformers; --no_peer leaves it out', file=sys.stderr)
    return 2
  for dtype in args.dtypes.split(','):
    for batch in map(int, args.batches.split(',')):
      for context in map(int, args.contexts.split(',')):
        cell = args, dtype, batch, context
        alone, repeats = args.no_peer, args.repeats
        rounds = [our_times(*cell, repeats)] if alone else [both_times(*cell) for _ in range(repeats)]
        row = {'device': rounds[0]['device'], 'dtype': dtype, 'batch': batch, 'context': context}
        row |= {'top_k': args.top_k, 'repeats': repeats}
        row |= {
          name: statistics.median(found[name] for found in rounds) for name in rounds[0] if name != 'device'
        }
        row['steps_a_second'] = 1e3 / row['ours_ms']
        if not alone:
          ratios = [found['ratio'] for found in rounds]
          row |= {'least_ratio': min(ratios), 'greatest_ratio': max(ratios)}
        timing.tell(row, args.json)
  return 0


def both_times(args: argparse.Namespace, dtype: str, batch: int, context: int) -> dict[str, Any]:
  """What `our_times` says, after the peer's, and the ratio."""
  with workers.pool(1) as process:
    its = 1e3 * process.submit(peer_seconds, args, dtype, batch, context).result()
  mine = our_times(args, dtype, batch, context, 1)
  return mine | {'musicgen_ms': its, 'ratio': its / mine['ours_ms']}


def our_times(args: argparse.Namespace, dtype: str, batch: int, context: int, repeats: int) -> dict[str, Any]:
  """The device, and milliseconds of one of our steps and of the limit, by another process."""
  with workers.pool(1, runtime.begin) as process:
    return process.submit(measure, args, dtype, batch, context, repeats).result()


def measure(args: argparse.Namespace, dtype: str, batch: int, context: int, repeats: int) -> dict[str, Any]:
  """See `our_times`."""
  longest = max(map(int, args.contexts.split(',')))
  model, params = build(args, dtype, longest)
  mine = step_seconds(ours(model, params, batch, context, Sampling(top_k=args.top_k)), repeats)
  found = {'ours_ms': 1e3 * mine, 'limit_ms': 1e3 * limit(model, params, batch, context)}
  return {'device': timing.device(), **found}


if __name__ == '__main__':
  sys.exit(main())
