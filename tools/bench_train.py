"""Times a training step of a decoder, beside a plain PyTorch step of the same network in the same run.

    python tools/bench_train.py --peer=torch                 # 8 layers x 512, length 1,024, batch 4, float32
    python tools/bench_train.py --recipe=v2meow_coarse --hardware=gpu_1 --batch=16     # a recipe's step

Ours runs as a command does, the peer as it comes, in a process of its own. Model FLOPs are those of
docs/scale.md. Beside them stands a product of two square float32 (on a GPU bfloat16) matrices in the same
run.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import recipes
import timing

from v2meow_jax import errors, runtime, workers
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.stages import Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.training import devices

RATE = 1e-4


def plain(args: argparse.Namespace) -> tuple[StageTrainable, dict]:
  """The network of the benchmark: no conditions, plain feed-forward, rotary positions."""
  tokens = Stream('audio/semantic', 'tokens', 25, 1, args.vocabulary)
  stage = Stage('bench', (), Target(tokens), f'{args.length}/25')
  config = TransformerConfig(
    layers=args.layers, width=args.width, heads=args.heads, mlp=args.mlp, gated=False, qk_norm=False,
    dtype=args.dtype, scan_layers=args.scan_layers, remat=args.remat,
  )  # fmt: skip
  shape = (args.batch, args.length)
  batch = {
    tokens.name: np.random.default_rng(0).integers(0, args.vocabulary, (*shape, 1)).astype(np.int32),
    f'{tokens.name}/mask': np.ones(shape, bool),
    f'{tokens.name}/offset': np.zeros(args.batch, np.float32),
  }
  return StageTrainable(stage, config, optax.adamw(RATE)), batch


def recipe(args: argparse.Namespace) -> tuple[StageTrainable, dict]:
  """A recipe's network, with a batch of random tokens."""
  settings = (f'--gin.BATCH_SIZE={args.batch}', '--gin.StageTrainable.microbatches=1', *args.gin)
  trainable, batches = recipes.inspected(args.recipe, args.hardware, settings)
  return trainable, recipes.random_batch(trainable, batches)


def ours(trainable: StageTrainable, batch: dict, steps: int) -> float:
  """Seconds of a step of ours on all devices, data parallel."""
  partitioner = Partitioner()
  state, shardings = partitioner.init(trainable.init, jax.random.key(0), batch)
  placed = partitioner.shard(batch)
  step = partitioner.jit(trainable.step, donate_argnums=0, out_shardings=(shardings, partitioner.replicated))
  held = [state]
  del state

  def run():
    held[0], metrics = step(held[0], placed, jax.random.key(1))
    jax.block_until_ready(metrics)

  return timing.median_seconds(run, steps, 2)


def torch_step(config: TransformerConfig, vocabulary: int, batch: int, length: int, steps: int) -> float:
  """Seconds of a step of the same network in plain PyTorch; compiled, in bfloat16, on a GPU."""
  try:
    import torch
    from torch import nn
    from torch.nn import functional
  except ImportError as error:
    raise errors.ConfigError('--peer=torch needs PyTorch; pip install torch') from error
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.manual_seed(0)
  half = config.width // config.heads // 2
  angle = torch.arange(length)[:, None] / 10000 ** (torch.arange(half) / half)
  cos, sin = (f(angle).to(device)[None, None] for f in (torch.cos, torch.sin))

  def rotate(x):
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      width, linear = config.width, lambda i, o: nn.Linear(i, o, bias=False)
      self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
      self.qkv, self.out = linear(width, 3 * width), linear(width, width)
      self.up, self.down = linear(width, config.mlp), linear(config.mlp, width)
      self.gate = linear(width, config.mlp) if config.gated else None

    def forward(self, x):
      batch, time_, width = x.shape
      q, k, v = self.qkv(self.norms[0](x)).view(batch, time_, 3, config.heads, -1).permute(2, 0, 3, 1, 4)
      y = functional.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
      x = x + self.out(y.transpose(1, 2).reshape(batch, time_, width))
      y = self.norms[1](x)
      inner = functional.gelu(self.up(y) if self.gate is None else self.gate(y), approximate='tanh')
      return x + self.down(inner if self.gate is None else inner * self.up(y))

  class Model(nn.Module):
    def __init__(self):
      super().__init__()
      self.embedding = nn.Embedding(vocabulary, config.width)
      self.blocks = nn.ModuleList([Block() for _ in range(config.layers)])
      self.norm, self.head = nn.RMSNorm(config.width), nn.Linear(config.width, vocabulary, bias=False)

    def forward(self, tokens):
      x = self.embedding(tokens)
      for block in self.blocks:
        x = block(x)
      return self.head(self.norm(x))

  model = Model().to(device)
  optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
  forward = torch.compile(model) if device == 'cuda' else model
  tokens = torch.randint(0, vocabulary, (batch, length), device=device)

  def run():
    with torch.autocast(device, torch.bfloat16, enabled=config.dtype == 'bfloat16'):
      logits = forward(tokens)
    loss = functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss.item()

  return timing.median_seconds(run, steps, 2)


def measured(args: argparse.Namespace, peak: float) -> dict[str, float | int | str]:
  """A row of results."""
  trainable, batch = recipe(args) if args.recipe else plain(args)
  length = trainable.stage.prefix_length + trainable.stage.steps
  flops = trainable.flops(batch)
  seconds = ours(trainable, batch, args.steps)
  row = {
    'network': args.recipe or f'{args.layers} x {args.width}', 'dtype': trainable.config.dtype,
    'batch': args.batch, 'length': length, 'ours_ms': 1e3 * seconds, 'tflops': flops / seconds / 1e12,
    'product_tflops': peak / 1e12,
  }  # fmt: skip
  limit = devices.peak_flops(jax.devices()[0].device_kind)
  if limit:
    row['mfu'] = flops / seconds / jax.device_count() / limit
  if args.peer == 'torch':
    vocabulary = trainable.stage.target.stream.codes
    with workers.pool(1) as peer:
      other = peer.submit(torch_step, trainable.config, vocabulary, args.batch, length, args.steps).result()
    row |= {'torch_ms': 1e3 * other, 'ours_over_torch': seconds / other}
  return row


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--peer', choices=('none', 'torch'), default='none')
  parser.add_argument('--recipe', help='of gin/recipes, instead of the network that the sizes below make')
  parser.add_argument('--hardware', help='of gin/hardware, with a recipe')
  parser.add_argument('--gin', action='append', default=[], help='--gin.NAME=VALUE, with a recipe')
  sizes = {'layers': 8, 'width': 512, 'heads': 8, 'mlp': 2048, 'vocabulary': 4096, 'length': 1024, 'batch': 4}
  for name, value in {**sizes, 'steps': 5}.items():
    parser.add_argument(f'--{name}', type=int, default=value)
  parser.add_argument('--grow', action='store_true', help='doubles the batch for as long as memory allows')
  parser.add_argument('--dtype', default='float32')
  parser.add_argument('--remat', default='none')
  parser.add_argument('--scan_layers', action='store_true')
  parser.add_argument('--json', help='a file to which rows are appended')
  args = parser.parse_args()
  runtime.begin()
  try:
    peak = timing.product_flops(jnp.bfloat16 if jax.default_backend() == 'gpu' else jnp.float32)
    while True:
      timing.tell(measured(args, peak), args.json)
      if not args.grow:
        return 0
      args.batch *= 2
  except errors.InputError as error:
    print(f'bench_train: {error}', file=sys.stderr)
    return 2
  except jax.errors.JaxRuntimeError as error:
    if args.grow and 'RESOURCE_EXHAUSTED' in str(error):
      timing.tell({'network': args.recipe, 'batch': args.batch, 'fits': False}, args.json)
      return 0
    raise


if __name__ == '__main__':
  sys.exit(main())
