"""Times the implementations of attention over a prefix and a causal sequence, forward and with its gradient.

    python tools/bench_attention.py [--batch=8 --length=2048 --prefix=256] [--dtypes=bfloat16] [--json=FILE]

FLOPs count what causality leaves, and the gradient as two and a half times the forward pass. On a GPU,
`pallas` is the flash attention that JAX brings (jax.experimental.pallas.ops.gpu), without a prefix.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import timing

from v2meow_jax import runtime
from v2meow_jax.models import attention


def pallas(q, k, v, prefix: int):
  """JAX's own flash attention for GPUs; causal alone."""
  from jax.experimental.pallas.ops.gpu import attention as flash

  del prefix
  return flash.mha(q, k, v, None, causal=True, sm_scale=q.shape[-1] ** -0.5)


def implementation(name: str):
  """A function of q, k, v, prefix."""
  if name == 'pallas':
    return pallas
  return lambda q, k, v, prefix: attention.prefix_causal(q, k, v, prefix, implementation=name)


def main() -> int:
  runtime.begin()
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  sizes = {'batch': 8, 'length': 2048, 'prefix': 256, 'heads': 16, 'dimension': 64, 'repeats': 10}
  for name, value in sizes.items():
    parser.add_argument(f'--{name}', type=int, default=value)
  parser.add_argument('--dtypes', default='bfloat16')
  kernels = {'gpu': 'xla,cudnn,pallas', 'tpu': 'xla,splash'}.get(jax.default_backend(), 'xla')
  parser.add_argument('--implementations', default=kernels)
  parser.add_argument('--json', help='a file to which rows are appended')
  args = parser.parse_args()
  scores = args.prefix**2 + (args.length**2 - args.prefix**2) / 2
  flops = 4 * args.batch * args.heads * args.dimension * scores
  for dtype in args.dtypes.split(','):
    shape = (args.batch, args.length, args.heads, args.dimension)
    q, k, v = (jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0), 3))
    wanted = None
    for name in args.implementations.split(','):
      run = implementation(name)
      forward = jax.jit(lambda q, k, v, run=run: run(q, k, v, args.prefix))
      backward = jax.jit(
        jax.grad(lambda q, k, v, run=run: jnp.sum(run(q, k, v, args.prefix).astype(jnp.float32)), (0, 1, 2))
      )
      row = {'implementation': name, 'dtype': dtype, **{key: getattr(args, key) for key in sizes}}
      try:
        made = forward(q, k, v).astype(jnp.float32)
        ways = {'forward': (forward, 1.0), 'gradient': (backward, 3.5)}
        for way, (function, share) in ways.items():
          run_once = lambda f=function, x=(q, k, v): jax.block_until_ready(f(*x))  # noqa: E731
          seconds = timing.median_seconds(run_once, args.repeats)
          row |= {f'{way}_ms': 1e3 * seconds, f'{way}_tflops': share * flops / seconds / 1e12}
      except Exception as error:  # a kernel that this card does not take is a row, too
        timing.tell(row | {'fails': str(error).splitlines()[0][:200]}, args.json)
        continue
      wanted = made if wanted is None else wanted
      if name != 'pallas' or not args.prefix:
        row['difference'] = float(jnp.abs(made - wanted).max())
      timing.tell(row, args.json)
  return 0


if __name__ == '__main__':
  sys.exit(main())
