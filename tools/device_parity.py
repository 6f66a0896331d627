"""Compares this machine's accelerator with its CPU: logits and loss of a stage, codes and sound of a codec.

    python tools/device_parity.py [--stage=v2meow_small_coarse --codec=soundstream_24k] [--json=FILE]

Differences are greatest ones, of values whose deviation stands beside them. In float32 both are asked for
full precision, as GPUs and TPUs otherwise round products to less.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np
import recipes
import timing

from v2meow_jax import errors, linen
from v2meow_jax.codec.codec import Codec
from v2meow_jax.sampling import Sampling


def stage_logits(runner, batch: dict, device: jax.Device, precision: str) -> np.ndarray:
  """Teacher-forced logits, computed there."""
  params, batch = jax.device_put((runner.params, batch), device)
  with jax.default_device(device), jax.default_matmul_precision(precision):
    made = jax.jit(lambda params, batch: linen.call(runner.model, params, batch))(params, batch)
  return np.asarray(made, np.float32)


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--stage', default='v2meow_small_coarse')
  parser.add_argument('--codec', default='soundstream_24k')
  parser.add_argument('--batch', type=int, default=2)
  parser.add_argument('--json', help='a file to which rows are appended')
  args = parser.parse_args()
  cpu, device = jax.devices('cpu')[0], jax.devices()[0]
  try:
    trainable, batches = recipes.inspected(args.stage, None, (f'--gin.BATCH_SIZE={args.batch}',))
    codec = recipes.random_codec(recipes.inspected(args.codec)[0])
  except errors.InputError as error:
    print(f'device_parity: {error}', file=sys.stderr)
    return 2
  batch = recipes.random_batch(trainable, batches)
  exact = stage_logits(recipes.random_stage(trainable, 'float32', Sampling()), batch, cpu, 'highest')
  for dtype, precision in (('float32', 'highest'), ('float32', 'default'), ('bfloat16', 'default')):
    runner = recipes.random_stage(trainable, dtype, Sampling())
    found = stage_logits(runner, batch, device, precision)
    row = {'what': args.stage, 'dtype': dtype, 'precision': precision, 'deviation': float(exact.std())}
    difference = float(np.abs(found - exact).max())
    likeliest = float((found.argmax(-1) == exact.argmax(-1)).mean())
    timing.tell(row | {'difference': difference, 'same_likeliest': likeliest}, args.json)
  sound = (0.2 * np.random.default_rng(0).standard_normal((1, 3 * codec.sample_rate, 1))).astype(np.float32)
  made = {}
  for name, place in (('cpu', cpu), ('device', device)):
    with jax.default_device(place), jax.default_matmul_precision('highest'):
      there = Codec(codec.config, jax.device_put(codec.weights, place))
      codes = there.encode(sound)
      made[name] = codes, there.decode(made['cpu'][0] if made else codes)
  (codes, audio), (other_codes, other) = made['cpu'], made['device']
  same = float((codes == other_codes).mean())
  row = {'what': args.codec, 'dtype': 'float32', 'precision': 'highest', 'same_codes': same}
  difference = float(jnp.abs(audio - other).max())
  timing.tell(row | {'deviation': float(audio.std()), 'difference': difference}, args.json)
  return 0


if __name__ == '__main__':
  sys.exit(main())
