"""Trains a small stage and a small codec on meshes of virtual devices; run by test_partitioning in a process.

Arguments: JSON of {"shapes": [mesh shapes], "what": "stage" | "codec", "wide": float64 or not}. Prints
JSON: for each shape losses, parameters' file, and where some arrays lie.
"""

import json
import sys

import jax

asked = json.loads(sys.argv[1])
jax.config.update('jax_enable_x64', asked['wide'])

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

from v2meow_jax.codec import quantizer  # noqa: E402
from v2meow_jax.codec.adversary import Adversary  # noqa: E402
from v2meow_jax.codec.codec import CodecConfig  # noqa: E402
from v2meow_jax.codec.discriminators import DiscriminatorConfig  # noqa: E402
from v2meow_jax.codec.spectral import SpectralConfig  # noqa: E402
from v2meow_jax.codec.trainable import CodecTrainable  # noqa: E402
from v2meow_jax.models.trainable import StageTrainable  # noqa: E402
from v2meow_jax.models.transformer import TransformerConfig  # noqa: E402
from v2meow_jax.partitioning import Partitioner  # noqa: E402
from v2meow_jax.stages import Condition, Stage, Target  # noqa: E402
from v2meow_jax.streams import Stream  # noqa: E402

BATCH = 8
rng = np.random.default_rng(0)


def stage():
  motion, tokens = Stream('video/motion', 'embedding', 4, 3), Stream('audio/acoustic', 'tokens', 5, 2, 16)
  made = Stage('mesh', (Condition(motion, dropout=0.2),), Target(tokens, None, 'delay'), 2)
  config = TransformerConfig(
    layers=2,
    width=32,
    heads=8,
    mlp=48,
    dtype='float64' if asked['wide'] else 'float32',
    scan_layers=asked.get('scan', False),
    dropout=0.1,
  )
  batch = {
    'video/motion': rng.standard_normal((BATCH, 8, 3)).astype(np.float32),
    'audio/acoustic': rng.integers(0, 16, (BATCH, 10, 2)).astype(np.int32),
  }
  for name, value in list(batch.items()):
    batch[f'{name}/mask'] = np.ones(value.shape[:2], bool)
    batch[f'{name}/offset'] = np.zeros(BATCH, np.float32)
  return StageTrainable(made, config, optax.adamw(1e-3), microbatches=asked.get('microbatches', 1)), batch


def codec():
  config = CodecConfig(
    SpectralConfig(window=320, spectrum_hop=80, downsampling=2, width=16, encoder_blocks=1, decoder_blocks=1),
    quantizer.QuantizerConfig(levels=2, codes=8, dimension=8, dead_below=0.1),
    sample_rate=8000,
  )
  networks = DiscriminatorConfig((2,), 2, 8, windows=(128,), stft_channels=2, blocks=2)
  against = Adversary(networks, optax.adam(1e-4), weight=0.1, feature_weight=1.0, start=2)
  trainable = CodecTrainable(config, optax.adam(1e-3), against, warmup_steps=3, ring=256, windows=(512,))
  batch = {'audio/waveform': (3000 * rng.standard_normal((BATCH, 3200, 1))).astype(np.int16)}
  return trainable, batch


trainable, batch = {'stage': stage, 'codec': codec}[asked['what']]()
found = {}
for shape in asked['shapes']:
  part = Partitioner(tuple(shape))
  part.check_batch(BATCH)
  state, shardings = part.init(trainable.init, jax.random.key(0), batch)
  if asked['wide']:  # Linen's own layers make float32 parameters
    widen = lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x  # noqa: E731
    state = jax.device_put(jax.tree.map(widen, state), shardings)
  if asked.get('from'):
    # The same wide state for every mesh, rounded: what follows differs by the order of sums alone.
    saved = np.load(asked['from'])
    leaves, tree = jax.tree.flatten(state)
    values = [saved[f'arr_{i}'].astype(leaf.dtype) for i, leaf in enumerate(leaves)]
    state = jax.device_put(jax.tree.unflatten(tree, values), shardings)
  step = part.jit(trainable.step, donate_argnums=0, out_shardings=(shardings, part.replicated))
  compiled = step.lower(state, part.shard(batch), jax.random.key(0)).compile()
  losses = []
  for n in range(asked['steps']):
    state, metrics = compiled(state, part.shard(batch), jax.random.key(n))
    losses.append(float(metrics['loss']))
  name = '_'.join(map(str, shape))
  path = f'{asked["out"]}/{asked["what"]}_{asked["wide"]}_{name}.npz'
  np.savez(path, *jax.device_get(jax.tree.leaves(state)))
  placed = {
    jax.tree_util.keystr(key, simple=True, separator='/'): [
      [axis if axis is None or isinstance(axis, str) else list(axis) for axis in leaf.sharding.spec],
      list(leaf.shape),
      list(leaf.addressable_shards[0].data.shape),
    ]
    for key, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
  }
  text = compiled.as_text()
  found[name] = {
    'losses': losses, 'state': path, 'placed': placed,
    'collectives': {op: text.count(f' {op}(') for op in ('all-reduce', 'all-gather')},
    'batch': list(part.shard(batch)[next(iter(batch))].addressable_shards[0].data.shape),
  }  # fmt: skip
print(json.dumps(found))
