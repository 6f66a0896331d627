"""Writes tests/t5x/fixtures with T5X itself: its checkpoints in both formats, and what it computes.

T5X is on no registry: put checkouts of google-research/t5x, google/airio and google-research/jestimator on
PYTHONPATH, and install cached_property, fiddle, chex and grain.

  PYTHONPATH=t5x:airio:jestimator:. python tools/make_t5x_fixtures.py
"""

import pathlib
import tarfile
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from t5x import adafactor, checkpoints, gin_utils, models, partitioning, utils
from t5x.examples.decoder_only import layers, network

import gin

OUT = pathlib.Path(__file__).resolve().parent.parent / 'tests' / 't5x' / 'fixtures'
VOCABULARY, LENGTH = 24, 12


def pack(name: str, folder: pathlib.Path) -> None:
  """One file of a folder, without anything of this machine in it."""
  with tarfile.open(OUT / name, 'w:xz') as archive:
    for path in sorted(folder.rglob('*')):
      if path.is_file():
        about = tarfile.TarInfo(str(path.relative_to(folder)))
        about.size = path.stat().st_size
        with path.open('rb') as file:
          archive.addfile(about, file)


def decoder_only() -> None:
  """T5X's decoder-only network after two steps: both checkpoints, its logits and its loss."""
  config = gin.external_configurable(network.TransformerConfig, 'TransformerConfig', module='network')
  gin.parse_config("network.TransformerConfig.mlp_activations = ('gelu', 'linear')")
  made = config(
    vocab_size=VOCABULARY, emb_dim=16, num_heads=4, num_layers=2, head_dim=4, mlp_dim=32, dropout_rate=0.0
  )
  optimizer = adafactor.Adafactor(
    0.01, min_dim_size_to_factor=8, logical_factor_rules=adafactor.standard_logical_factor_rules()
  )
  module = network.DecoderWrapper(made)
  model = models.DecoderOnlyModel(module, seqio.PassThroughVocabulary(VOCABULARY), optimizer)
  partitioner = partitioning.PjitPartitioner(num_partitions=1)
  tokens = np.random.default_rng(0).integers(1, VOCABULARY, (2, LENGTH)).astype(np.int32)
  batch = {
    'decoder_target_tokens': tokens,
    'decoder_input_tokens': np.pad(tokens, ((0, 0), (1, 0)))[:, :-1],
    'decoder_loss_weights': np.ones(tokens.shape, np.float32),
  }
  initializer = utils.TrainStateInitializer(
    optimizer_def=optimizer,
    init_fn=model.get_initial_variables,
    input_shapes={name: batch[name].shape for name in ('decoder_input_tokens', 'decoder_target_tokens')},
    partitioner=partitioner,
  )
  state = initializer.from_scratch(jax.random.PRNGKey(0))
  for _ in range(2):
    gradient = jax.grad(lambda params: model.loss_fn(params, batch, None)[0])(state.params)
    state = state.apply_gradient(gradient, 0.01)
  loss, metrics = model.eval_fn(state.params, batch)
  logits = module.apply(
    {'params': state.params},
    batch['decoder_input_tokens'],
    batch['decoder_target_tokens'],
    enable_dropout=False,
  )
  distances = np.arange(-300, 300, dtype=np.int32)
  biases = layers.RelativePositionBiases
  np.savez_compressed(
    OUT / 'decoder_only.npz',
    tokens=tokens,
    logits=logits,
    loss=loss,
    accuracy=metrics['accuracy'].compute(),
    distances=distances,
    buckets=biases._relative_position_bucket(distances, bidirectional=False),
  )
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    for name in ('msgpack', 'orbax', 'bfloat16'):
      (path / name).mkdir()
      gin_utils.summarize_gin_config(str(path / name), None, 0)
    checkpoints.Checkpointer(state, partitioner, str(path / 'msgpack')).save(state)
    checkpoints.Checkpointer(state, partitioner, str(path / 'bfloat16'), save_dtype=jnp.bfloat16).save(state)
    manager = checkpoints.OrbaxCheckpointManagerInterface(
      str(path / 'orbax'), state, partitioner, save_dtype=jnp.float32
    )
    manager.save(state)
    manager.close()
    for name in ('msgpack', 'orbax', 'bfloat16'):
      pack(f'decoder_only_{name}.tar.xz', path / name)


def adafactor_steps() -> None:
  """Three steps of T5X's Adafactor on stacked layers and a table of two levels."""
  rng = np.random.default_rng(1)
  axes = {
    'layers': {
      'up': {'kernel': ('layers', 'embed', 'mlp')},
      'down': {'kernel': ('layers', 'mlp', 'embed')},
      'norm': {'scale': ('layers', 'embed')},
    },
    'embedding': ('levels', 'vocab', 'embed'),
    'head': ('levels', 'embed', 'vocab'),
    'out': {'kernel': ('heads', 'embed')},
  }
  shapes = {'layers': 3, 'levels': 2, 'embed': 8, 'mlp': 12, 'vocab': 6, 'heads': 8}
  is_axes = lambda x: isinstance(x, tuple)  # noqa: E731

  def draw(names):
    # Layers of sizes as unlike as can be, so that what is taken over all of them is seen.
    value = rng.standard_normal([shapes[name] for name in names]).astype(np.float32)
    return value * np.float32(10) ** np.arange(len(value)).reshape(-1, *(1,) * (value.ndim - 1))

  params = jax.tree.map(draw, axes, is_leaf=is_axes)
  rules = dict(adafactor.standard_logical_factor_rules()) | {'levels': adafactor.FactorDim.BATCH}
  optimizer = adafactor.Adafactor(0.1, min_dim_size_to_factor=8, logical_factor_rules=rules)
  names = jax.tree.map(lambda x: jax.sharding.PartitionSpec(*x), axes, is_leaf=is_axes)
  optimizer.set_param_axes(names)
  state = optimizer.create(params)
  saved = {f'before/{k}': v for k, v in utils.flatten_dict_string_keys(params).items()}
  for step in range(3):
    gradients = jax.tree.map(lambda x, step=step: np.asarray(x**2 * np.cos(x + step)), state.target)
    flat = utils.flatten_dict_string_keys(gradients)
    saved |= {f'gradient_{step}/{k}': v for k, v in flat.items()}
    state = state.apply_gradient(gradients, learning_rate=0.1)
  saved |= {f'after/{k}': v for k, v in utils.flatten_dict_string_keys(state.target).items()}
  kept = utils.flatten_dict_string_keys(state.state_dict()['state']['param_states'])
  saved |= {f'state/{k}': v for k, v in kept.items()}
  np.savez_compressed(OUT / 'adafactor.npz', **saved)


if __name__ == '__main__':
  OUT.mkdir(parents=True, exist_ok=True)
  decoder_only()
  adafactor_steps()
  for made in sorted(OUT.iterdir()):
    print(f'{made.name}: {made.stat().st_size:,} bytes')
