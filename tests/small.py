"""Small untrained networks that many tests share."""

import pathlib
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from v2meow_jax import bundles, description
from v2meow_jax.codec import quantizer
from v2meow_jax.codec.codec import Codec, CodecConfig
from v2meow_jax.codec.spectral import SpectralConfig
from v2meow_jax.encoders.motion import MotionEncoder
from v2meow_jax.encoders.semantic import SemanticConfig, SemanticEncoder, features
from v2meow_jax.generation import decode
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

ROOT = pathlib.Path(__file__).resolve().parent.parent


def make_codec(seed: int = 0) -> Codec:
  """A spectral codec of 8 kHz, 25 frames a second, 4 levels of 16 codes, with random weights."""
  config = CodecConfig(
    SpectralConfig(
      window=640, spectrum_hop=160, downsampling=2, width=16, encoder_blocks=1, decoder_blocks=1
    ),
    quantizer.QuantizerConfig(levels=4, codes=16, dimension=8),
    sample_rate=8000,
  )
  keys = jax.random.split(jax.random.key(seed))
  params = jax.jit(config.build().init)(keys[0], jnp.zeros((1, 1280, 1)))['params']
  # Latents of a fresh network are small: codebooks of their size make the codes differ.
  codebooks = 0.3 * jax.random.normal(keys[1], (4, 16, 8)) / (1 + jnp.arange(4))[:, None, None]
  return Codec(config, {'params': params, 'codebooks': codebooks})


def make_stages(codec: Codec) -> list[tuple[Stage, TransformerConfig]]:
  """Three stages with crops of 2 s, one of each pattern and positional scheme among them."""
  motion, semantic = MotionEncoder().stream, Stream('audio/semantic', 'tokens', 25, 1, 16)
  acoustic = codec.stream
  rope = TransformerConfig(layers=2, width=16, heads=2, mlp=32)
  relative = TransformerConfig(2, 16, 2, 32, positions='relative', time_aligned=False, qk_norm=False)
  return [
    (Stage('semantic', (Condition(motion, dropout=0.1),), Target(semantic), 2), rope),
    (
      Stage('coarse', (Condition(semantic), Condition(motion)), Target(acoustic, (0, 2), 'flatten'), 2),
      relative,
    ),
    (Stage('fine', (Condition(acoustic, (0, 2)),), Target(acoustic, (2, 4), 'delay'), 1), rope),
  ]


def flat(tree) -> dict:
  """Nested dictionaries of arrays as one, with `/` between the names."""
  return traverse_util.flatten_dict(tree, sep='/')


def zero_batch(stage: Stage) -> dict:
  """A batch of one of the right shapes."""
  batch = {}
  for stream in stage.streams:
    length = stream.length(stage.crop_seconds)
    dtype = jnp.int32 if stream.kind == 'tokens' else jnp.float32
    batch[stream.name] = jnp.zeros((1, length, stream.width), dtype)
    batch[f'{stream.name}/mask'] = jnp.ones((1, length), bool)
    batch[f'{stream.name}/offset'] = jnp.zeros(1)
  return batch


def random_batch(stage: Stage, rows: int, seed: int = 0) -> dict:
  """A batch of the right shapes, and nothing in it like anything else."""
  rng = np.random.default_rng(seed)
  batch = {}
  for stream in stage.streams:
    shape = (rows, stream.length(stage.crop_seconds), stream.width)
    if stream.kind == 'tokens':
      batch[stream.name] = rng.integers(0, stream.codes, shape).astype(np.int32)
    else:
      batch[stream.name] = rng.standard_normal(shape).astype(np.float32)
    batch[f'{stream.name}/mask'] = np.ones(shape[:2], bool)
    batch[f'{stream.name}/offset'] = (0.1 * rng.standard_normal(rows)).astype(np.float32)
  return batch


def write_bundle(directory: pathlib.Path, dtype: str = 'float32', stablehlo: bool = False) -> pathlib.Path:
  """A whole bundle of untrained networks."""
  codec = make_codec()
  networks = []
  for number, (stage, config) in enumerate(make_stages(codec)):
    model = StageModel(stage, config)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(number), zero_batch(stage))['params'])
    about = {
      'stage': description.describe(stage),
      'transformer': description.describe(config),
      'sampling': description.describe(Sampling()),
    }
    networks.append(bundles.Network(f'stage_{stage.name}', about, params))
  config = SemanticConfig(8000, codes=16)
  noise = np.random.default_rng(0).standard_normal(32000).astype(np.float32)
  with tempfile.TemporaryDirectory() as folder:
    semantic = pathlib.Path(folder) / 'semantic.safetensors'
    SemanticEncoder.fit(config, features(config, noise)).save(semantic)
    bundles.write(
      directory,
      codec=bundles.Network(
        'codec', {'config': description.describe(codec.config), 'identity': codec.identity}, codec.weights
      ),
      stages=networks,
      encoders=[MotionEncoder().identity],
      fitted={'semantic': semantic},
      dtype=dtype,
      stablehlo=stablehlo,
      about={'name': 'small', 'licence': 'CC0-1.0'},
    )
  return directory


def decode_crop(
  model: StageModel, params, batch: dict, known: np.ndarray, keys, sampling: Sampling
) -> np.ndarray:
  """Tokens of a whole crop that begins with `known` [rows, n, depth], without guidance."""
  stage, count = model.stage, known.shape[1]
  if count == stage.frames:
    return np.asarray(known)
  filled = np.pad(known, ((0, 0), (0, stage.frames - count), (0, 0)))
  tokens = decode.generate_here(
    model, params, batch, filled, np.full(len(known), count), keys, stage.frames, sampling.knobs(),
    sampling.banned(stage.target.depth, stage.target.stream.codes),
    np.zeros((1, len(stage.conditions)), bool), np.ones(1, np.float32),
    prefilled=count, candidates=sampling.candidates(stage.target.stream.codes),
  )  # fmt: skip
  return np.asarray(tokens)
