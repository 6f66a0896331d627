"""Times a step of our decode loop beside transformers' MusicGen decoder of the same sizes.

    python tools/bench_decode.py [--layers=24 --width=1024] [--batches=1,8] [--dtypes=float32,bfloat16]

Needs torch and transformers. Ours is the whole loop that generation runs (embedding, layers, heads, drawing)
for a crop of the longest context; a step's time is the difference of runs that end after few and after many
steps. The peer's is its forward pass and drawing, with its own growing cache. The limit: the layers' weights
at the speed at which our fastest form of a product with as many rows reads large matrices.
"""

import argparse
import statistics
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

from v2meow_jax.generation import decode
from v2meow_jax.models.linear import product
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Stage, Target
from v2meow_jax.streams import Stream

LEVELS, CODES, LONGEST = 4, 2048, 1024
FEW, MANY = 4, 68


def build(args: argparse.Namespace, dtype: str):
  """(model, parameters) of random weights."""
  target = Target(Stream('audio/acoustic', 'tokens', 50, LEVELS, CODES), pattern='delay')
  stage = Stage('acoustic', (), target, f'{LONGEST + MANY + 4}/50')
  config = TransformerConfig(
    args.layers, args.width, args.heads, args.mlp, gated=False, dtype=dtype, transposed=True
  )
  model = StageModel(stage, config)
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

  return run


def theirs(args: argparse.Namespace, dtype: str):
  """The peer, of random weights."""
  config = MusicgenDecoderConfig(
    vocab_size=CODES, num_codebooks=LEVELS, num_hidden_layers=args.layers, hidden_size=args.width,
    num_attention_heads=args.heads, ffn_dim=args.mlp, max_position_embeddings=2048,
  )  # fmt: skip
  torch.manual_seed(0)
  return MusicgenForCausalLM(config).eval().to(getattr(torch, dtype))


def peer_seconds(model, batch: int, context: int) -> float:
  """Time of one of the peer's steps."""

  with torch.inference_mode():
    ids = torch.randint(0, CODES, (batch * LEVELS, context))
    out = model(input_ids=ids, use_cache=True)
    times = []
    for _ in range(MANY):
      began = time.perf_counter()
      logits = out.logits[:, -1].float()
      ids = torch.multinomial(torch.softmax(logits, -1), 1)
      out = model(input_ids=ids, past_key_values=out.past_key_values, use_cache=True)
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


def limit(params, batch: int, dtype: str) -> float:
  """Seconds that reading all layers' weights once takes, by a product of `batch` vectors with a matrix."""
  count = sum(leaf.size for leaf in jax.tree.leaves(params['transformer']))
  side = 4096
  many = max(2, count // side**2 // 4)
  matrices = [jnp.ones((side, side), dtype) for _ in range(many)]

  @jax.jit
  def products(x, matrices):
    for matrix in matrices:
      x = product(x, matrix)
    return x

  x = jnp.ones((batch, side), dtype)
  products(x, matrices).block_until_ready()
  times = []
  for _ in range(5):
    began = time.perf_counter()
    products(x, matrices).block_until_ready()
    times.append(time.perf_counter() - began)
  return min(times) * count / (many * side**2)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name, value in (('layers', 24), ('width', 1024), ('heads', 16), ('mlp', 4096), ('repeats', 3)):
    parser.add_argument(f'--{name}', type=int, default=value)
  parser.add_argument('--batches', default='1,8')
  parser.add_argument('--contexts', default=f'64,{LONGEST}')
  parser.add_argument('--dtypes', default='float32,bfloat16')
  parser.add_argument('--top_k', type=int, default=0, help='tokens that are drawn from; 0: all')
  parser.add_argument('--no_peer', action='store_true')
  args = parser.parse_args()
  sampling = Sampling(top_k=args.top_k)
  print('| dtype | batch | context | ours, ms | MusicGen, ms | ratio | limit, ms |')
  print('|---|---|---|---|---|---|---|')
  for dtype in args.dtypes.split(','):
    model, params = build(args, dtype)
    other = None if args.no_peer else theirs(args, dtype)
    for batch in map(int, args.batches.split(',')):
      floor = limit(params, batch, dtype)
      for context in map(int, args.contexts.split(',')):
        mine = step_seconds(ours(model, params, batch, context, sampling), args.repeats)
        its = float('nan') if other is None else peer_seconds(other, batch, context)
        print(
          f'| {dtype} | {batch} | {context} | {1e3 * mine:.1f} | {1e3 * its:.1f} | {its / mine:.2f} | '
          f'{1e3 * floor:.1f} |',
          flush=True,
        )


if __name__ == '__main__':
  sys.exit(main())
