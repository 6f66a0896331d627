"""`audio/musicnn`: musicnn's 200-dimensional embedding of three seconds of music (Pons and Serra 2019).

`audio/musicnn_tags` are its logits of the fifty tags that it was trained to tell.

Weights are a safetensors file with the names of the package's checkpoints, made by `tools/import_musicnn.py`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import gin
from v2meow_jax import errors
from v2meow_jax.encoders import driver, weights
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry, Option
from v2meow_jax.encoders.network import Apply, Network, Sound
from v2meow_jax.streams import Stream

RATE, SIZE, HOP, MELS, FRAMES = 16000, 512, 256, 96, 187
EPSILON = 1e-3  # of TensorFlow's batch norm
WIDTH, TAGS = 200, 50
CONVOLUTIONS, NORMS = 8, 11


@functools.cache
def _filters() -> np.ndarray:
  import librosa  # takes seconds to import

  return librosa.filters.mel(sr=RATE, n_fft=SIZE, n_mels=MELS).T


def spectrogram(sound: Float[Array, 'batch samples']) -> Float[Array, 'batch frames mels']:
  """log10(1 + 10,000 mel power), the power in half precision as the network was trained with it."""
  count = (sound.shape[1] - SIZE) // HOP + 1
  frames = sound[:, np.arange(count)[:, None] * HOP + np.arange(SIZE)]
  window = np.hanning(SIZE + 1)[:-1].astype(np.float32)
  power = jnp.abs(jnp.fft.rfft(frames.astype(jnp.float32) * window)) ** 2
  mel = (power @ _filters()).astype(jnp.float16).astype(jnp.float32)
  return jnp.log10(10000 * mel + 1)


def apply(params: Mapping[str, Any], x: Float[Array, 'batch frames mels']) -> tuple[Array, Array]:
  """(embedding [batch, 200], logits of the tags [batch, 50])."""
  number = lambda name, n: f'{name}_{n}' if n else name  # noqa: E731

  def norm(n: int, y: Array) -> Array:
    name = number('batch_normalization', n)
    gamma, beta, mean, variance = (
      params[f'{name}/{part}'] for part in ('gamma', 'beta', 'moving_mean', 'moving_variance')
    )
    return (y - mean) / jnp.sqrt(variance + EPSILON) * gamma + beta

  def convolved(n: int, y: Array, padding: Any) -> Array:
    name = number('conv2d', n)
    made = jax.lax.conv_general_dilated(
      y, params[f'{name}/kernel'], (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return norm(n + 1, jax.nn.relu(made + params[f'{name}/bias']))

  around = ((3, 3), (0, 0))
  first = norm(0, x[..., None])
  # What timbre and time are heard by, the greatest over all frequencies.
  front = [convolved(n, first, around if n < 2 else 'SAME').max(2) for n in range(5)]
  layers = [jnp.concatenate(front, 2)[..., None]]
  for n in (5, 6, 7):
    made = jnp.swapaxes(convolved(n, layers[-1], around), 2, 3)
    layers.append(made + layers[-1] if n > 5 else made)
  heard = jnp.concatenate(layers, 2)[..., 0]
  pooled = jnp.stack([heard.max(1), heard.mean(1)], -1).reshape(heard.shape[0], -1)
  inner = jax.nn.relu(norm(9, pooled) @ params['dense/kernel'] + params['dense/bias'])
  embedding = norm(10, inner)
  return embedding, embedding @ params['dense_1/kernel'] + params['dense_1/bias']


def checked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The arrays that the network takes, by the checkpoint's names without its scope.

  Raises:
    errors.ConfigError: one is missing.
  """
  ends = lambda name, n: [f'{name}_{k}' if k else name for k in range(n)]  # noqa: E731
  wanted = [
    f'{n}/{p}' for n in [*ends('conv2d', CONVOLUTIONS), *ends('dense', 2)] for p in ('kernel', 'bias')
  ]
  for name in ends('batch_normalization', NORMS):
    wanted += [f'{name}/{part}' for part in ('gamma', 'beta', 'moving_mean', 'moving_variance')]
  found = {name.removeprefix('model/'): value for name, value in arrays.items()}
  missing = [name for name in wanted if name not in found]
  if missing:
    raise errors.ConfigError(f'the weights hold no {missing[0]}; they are incomplete, or not of musicnn')
  return {name: np.asarray(found[name], np.float32) for name in wanted}


@gin.register
@dataclasses.dataclass(frozen=True)
class MusicnnNetwork(Network):
  """Three seconds around each element.

  Attributes:
    weights: safetensors file of `tools/import_musicnn.py`.
    rate: elements a second, in Hz.
    stream_name: of what comes out.
    tags: logits of the tags come out instead of the embedding.
  """

  weights: str
  rate: Fraction = Fraction(1)
  stream_name: str = 'audio/musicnn'
  tags: bool = False

  name: ClassVar[str] = 'musicnn'

  def __post_init__(self):
    object.__setattr__(self, 'rate', Fraction(self.rate))

  @property
  def reads(self) -> Sound:
    """Mono at 16 kHz."""
    return Sound(RATE)

  @property
  def stream(self) -> Stream:
    """As wide as the last layer, or the last but one."""
    return Stream(self.stream_name, 'embedding', self.rate, TAGS if self.tags else WIDTH)

  @property
  def window(self) -> int:
    """Samples that its frames take."""
    return (FRAMES - 1) * HOP + SIZE

  def load(self) -> tuple[Any, Apply]:
    """See `Network.load`."""

    def embed(params: Any, batch: Array) -> Array:
      return apply(params, spectrogram(batch[..., 0]))[self.tags][:, None]

    return checked(weights.read(self.weights)), embed


def _entry(stream: str, **settings: Any) -> Entry:
  made = functools.partial(configured, MusicnnNetwork, **settings)
  return Entry(
    stream.rpartition('/')[2],
    stream,
    settings=MusicnnNetwork,
    make=lambda given: driver.NetworkEncoder(made(weights=given.options['musicnn'])),
    rebuild=lambda identity, sources: driver.rebuilt(MusicnnNetwork, identity, sources.place(identity)),
    options=(Option('musicnn', "tools/import_musicnn.py's file, for audio/musicnn and its tags"),),
    needs=('musicnn',),
    wanted="--musicnn, tools/import_musicnn.py's file",
    pretrained=True,
    essence=driver.essence,
  )


ENTRY = _entry('audio/musicnn')
LABELS = _entry('audio/musicnn_tags', stream_name='audio/musicnn_tags', tags=True)
