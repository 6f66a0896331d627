"""Decodes stages greedily by the programs of a bundle alone; run by test_stablehlo in a process.

Arguments: the bundle, an .npz of conditions, and where to write the tokens. Our package cannot be imported.
"""

import pathlib
import sys

sys.modules['v2meow_jax'] = None  # type: ignore[assignment] (importing it fails)

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax import export  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

bundle, given, out = (pathlib.Path(argument) for argument in sys.argv[1:])


def weights(path: pathlib.Path) -> dict:
  tree: dict = {}
  for name, value in load_file(path).items():
    *folders, last = name.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[last] = value.astype(np.float32)
  return tree


arrays = np.load(given)
made = {}
for stage in sorted({name.split('|')[0] for name in arrays}):
  batch = {name.split('|')[1]: arrays[name] for name in arrays if name.startswith(f'{stage}|')}
  steps, dropped = int(batch.pop('steps')), batch.pop('dropped')
  params = weights(bundle / f'stage_{stage}.safetensors')
  prefill, step = (
    jax.jit(export.deserialize(bytearray((bundle / f'stage_{stage}.{name}.stablehlo').read_bytes())).call)
    for name in ('prefill', 'step')
  )
  logits, cache = prefill(params, batch, dropped)
  tokens = []
  for number in range(steps):
    tokens.append(np.asarray(logits).argmax(-1).astype(np.int32))
    if number + 1 < steps:
      logits, cache = step(params, batch, tokens[-1], np.int32(number + 1), cache)
  made[stage] = np.stack(tokens, 1)
try:
  import v2meow_jax  # noqa: F401
except ImportError:
  np.savez(out, **made)
