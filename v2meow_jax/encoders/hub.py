"""Any network of the `transformers` library that hears sound or sees pictures: w2v-BERT 2.0, HuBERT,
VideoMAE, ...

One layer's hidden states, averaged over what lies in an element. Runs in PyTorch, or in JAX by torchax
where a TPU or a GPU under JAX is to do it; the elements are the same to about 1e-5.
"""

import dataclasses
import functools
import os
from fractions import Fraction
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import gin
from v2meow_jax import errors
from v2meow_jax.encoders import driver, weights
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry, Option
from v2meow_jax.encoders.network import Apply, Network, Pictures, Sound
from v2meow_jax.streams import Stream

BACKENDS = ('torch', 'torchax')
# Of networks that hear: the argument that they take, samples from a token to the next, centre of the first.
HEARING = {
  'wav2vec2-bert': ('input_features', 320, 280),  # two frames of 400 samples, 160 apart
  'hubert': ('input_values', 320, 200),
  'wav2vec2': ('input_values', 320, 200),
  'wav2vec2-conformer': ('input_values', 320, 200),
  'wavlm': ('input_values', 320, 200),
}
# Of networks that see: the argument, and the pictures of a window by `config.json`'s name.
SEEING = {
  'videomae': ('pixel_values', 'num_frames'),
  'vivit': ('pixel_values', 'num_frames'),
  'vjepa2': ('pixel_values_videos', 'frames_per_clip'),
  'dinov2': ('pixel_values', None),
  'dinov2_with_registers': ('pixel_values', None),
  'vit': ('pixel_values', None),
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@gin.register
@dataclasses.dataclass(frozen=True)
class TransformersNetwork(Network):
  """A network of transformers.

  Attributes:
    weights: folder of a published model.
    layer: whose hidden states are taken; 0: what goes into the first, -1: the last.
    rate: elements a second, in Hz.
    stream_name: of what comes out.
    backend: `torch` or `torchax`.
    block: seconds of sound that become elements at once.
    context: seconds of sound before and after them that the network hears as well.
    pictures: a second that are read, in Hz.
    seen: pictures of a window; those of `config.json` by default.
    pool: what stands for pictures: `mean` of all tokens, or the `first` one.
  """

  weights: str
  layer: int = -1
  rate: Fraction = Fraction(25)
  stream_name: str = 'audio/transformers'
  backend: str = 'torch'
  block: int = 10
  context: int = 1
  pictures: Fraction = Fraction(8)
  seen: int = 0
  pool: str = 'mean'

  name: ClassVar[str] = 'transformers'
  extra: ClassVar[str] = 'encoders'
  any_batch: ClassVar[bool] = False  # torchax knows no symbolic shapes

  def __post_init__(self):
    for name in ('rate', 'pictures'):
      object.__setattr__(self, name, Fraction(getattr(self, name)))
    if self.backend not in BACKENDS:
      raise errors.ConfigError(f'transformers: backend {self.backend!r} is not one of {", ".join(BACKENDS)}')
    if self.block < 1 or self.context < 0:
      raise errors.ConfigError(f'transformers: block {self.block} and context {self.context} are no seconds')

  @property
  def compiled(self) -> bool:  # type: ignore[override] (a setting here)
    """Whether JAX runs it."""
    return self.backend == 'torchax'

  @property
  def _type(self) -> str:
    return str(weights.settings(self.weights).get('model_type'))

  @property
  def _hears(self) -> bool:
    if self._type not in HEARING and self._type not in SEEING:
      known = ', '.join([*HEARING, *SEEING])
      raise errors.ConfigError(f'{self.weights}: a model of type {self._type!r}; known here are {known}')
    return self._type in HEARING

  @property
  def reads(self) -> Pictures | Sound:
    """Mono sound, or squares of the network's size."""
    if self._hears:
      return Sound(int(_preprocessing(self.weights).get('sampling_rate', 16000)))
    config = weights.settings(self.weights)
    side = config.get('image_size') or config.get('crop_size') or 224
    # DINOv2 was published for 518 pixels, and its preprocessing says what it is used at.
    asked = _preprocessing(self.weights).get('crop_size')
    side = asked['height'] if isinstance(asked, dict) and 'height' in asked else side
    return Pictures(self.pictures, (int(side), int(side)))

  @property
  def stream(self) -> Stream:
    """As wide as the hidden states."""
    width = int(weights.settings(self.weights).get('hidden_size', 768))
    return Stream(self.stream_name, 'embedding', self.rate, width)

  @property
  def hop(self) -> int:
    """Samples of a block, or pictures of an element."""
    return self.block * int(self.reads.rate) if self._hears else super().hop

  @property
  def window(self) -> int:
    """The hop with its context; the pictures that the network sees."""
    if self._hears:
      return self.hop + 2 * self.context * int(self.reads.rate)
    named = SEEING[self._type][1]
    return self.seen or (int(weights.settings(self.weights).get(named, 16)) if named else self.hop)

  @property
  def on_host(self) -> bool:  # type: ignore[override] (it depends on the model)
    """Whether the library makes features of the sound."""
    return self._argument == 'input_features'

  def load(self) -> tuple[Any, Apply]:
    """See `Network.load`."""
    torch, model = _model(self.weights)
    if self.backend == 'torch':
      return model, functools.partial(self._by_torch, torch)
    try:
      import torchax  # type: ignore[import-not-found] (of the extra "torchax")
    except ImportError as error:
      raise errors.ConfigError(
        'backend "torchax" needs torchax; install v2meow-jax with the extra "torchax"'
      ) from error
    plain = _without_weight_norm(torch, model)
    params, call = torchax.extract_jax(plain)
    return params, functools.partial(self._by_jax, call)

  def digest(self, params: Any) -> str:
    """Of the model's own arrays: the same by both ways of running it."""
    del params
    return weights.digest(weights.read(self.weights))

  def host(self, rows: np.ndarray) -> np.ndarray:
    """The library's features of windows of sound, where the network takes those."""
    if not self.on_host:
      return rows
    made = _extractor(self.weights)(
      list(rows[..., 0]), sampling_rate=int(self.reads.rate), return_tensors='np'
    )
    return np.asarray(made[self._argument], np.float32)

  def _scaled(self, rows: Any, xp: Any) -> Any:
    """Windows as the library's preprocessing has them, by NumPy or by JAX."""
    told = _preprocessing(self.weights)
    if self.on_host:
      return rows
    if self._hears:
      sound = rows[..., 0]
      if not told.get('do_normalize', True):
        return sound
      # As Wav2Vec2FeatureExtractor does.
      return (sound - sound.mean(1, keepdims=True)) / xp.sqrt(sound.var(1, keepdims=True) + 1e-7)
    mean, deviation = told.get('image_mean', IMAGENET[0]), told.get('image_std', IMAGENET[1])
    scaled = (rows.astype(xp.float32) / 255 - xp.asarray(mean, xp.float32)) / xp.asarray(
      deviation, xp.float32
    )
    scaled = xp.moveaxis(scaled, -1, 2)  # [rows, time, channels, height, width]
    return scaled if SEEING[self._type][1] else scaled.reshape((-1, *scaled.shape[2:]))

  def _called(self) -> dict[str, Any]:
    more = {'skip_predictor': True} if self._type == 'vjepa2' else {}
    return {'output_hidden_states': True, **more}

  @property
  def _argument(self) -> str:
    return (HEARING if self._hears else SEEING)[self._type][0]

  def _by_torch(self, torch: Any, model: Any, rows: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      made = model(
        **{self._argument: torch.from_numpy(np.ascontiguousarray(self._scaled(rows, np)))}, **self._called()
      )
    return self._elements(made.hidden_states[self.layer].numpy())

  def _by_jax(self, call: Any, params: Any, rows: Any) -> Any:
    made = call(params, (), {self._argument: self._scaled(rows, jnp), **self._called()})
    return self._elements(made.hidden_states[self.layer])

  def _elements(self, hidden: Any) -> Any:
    """Hidden states [rows, tokens, width] to [windows, elements a window, width]; NumPy or JAX."""
    if self._hears:
      return _between(hidden, self.shares(hidden.shape[1]))
    stands = hidden[:, :1] if self.pool == 'first' else hidden.mean(1, keepdims=True)
    if SEEING[self._type][1]:
      return stands
    return stands.reshape((-1, self.window, stands.shape[-1])).mean(1, keepdims=True)

  def shares(self, tokens: int) -> Float[np.ndarray, 'elements tokens']:
    """Of each token in each element of a window of sound: the mean of those whose centre lies in it."""
    _, step, first = HEARING[self._type]
    rate = int(self.reads.rate)
    centres = first + step * np.arange(tokens)
    count = self.block * self.rate
    if count % 1:
      raise errors.ConfigError(f'transformers: blocks of {self.block} s hold no whole number of elements')
    edges = self.context * rate + np.arange(int(count) + 1) * float(rate / self.rate)
    inside = (centres >= edges[:-1, None]) & (centres < edges[1:, None])
    # Where elements are shorter than tokens, the nearest one.
    nearest = np.abs(centres - (edges[:-1, None] + edges[1:, None]) / 2).argmin(1)
    alone = np.arange(tokens) == nearest[:, None]
    inside = np.where(inside.any(1, keepdims=True), inside, alone)
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def _between(hidden: Any, shares: np.ndarray) -> Any:
  return shares @ hidden


def _preprocessing(folder: str) -> dict[str, Any]:
  for name in ('preprocessor_config.json', 'video_preprocessor_config.json'):
    if os.path.isfile(os.path.join(folder, name)):
      return weights.settings(folder, name)
  return {}


def library() -> tuple[Any, Any]:
  """(torch, transformers).

  Raises:
    errors.ConfigError: they are not installed.
  """
  try:
    os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
    import torch  # type: ignore[import-not-found] (both take seconds to import)
    import transformers  # type: ignore[import-not-found]
  except ImportError as error:
    raise errors.ConfigError(
      'networks of transformers need it and PyTorch; install v2meow-jax with the extra "encoders"'
    ) from error
  transformers.utils.logging.disable_progress_bar()
  return torch, transformers


@functools.lru_cache(maxsize=8)
def _extractor(folder: str) -> Any:
  _, transformers = library()
  with errors.translated(errors.ConfigError, f'{folder}: its preprocessor_config.json cannot be read'):
    return transformers.AutoFeatureExtractor.from_pretrained(folder)


def _model(folder: str) -> tuple[Any, Any]:
  torch, transformers = library()
  weights.settings(folder)
  with errors.translated(errors.ConfigError, f'{folder}: no model of transformers can be loaded from there'):
    model, said = transformers.AutoModel.from_pretrained(
      folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, use_safetensors=True
    )
    if said['missing_keys']:
      raise ValueError(f'{len(said["missing_keys"])} arrays are missing, such as {min(said["missing_keys"])}')
  return torch, model.eval().requires_grad_(False)


def _without_weight_norm(torch: Any, model: Any) -> Any:
  """Weight norm is part of the weights: torchax cannot trace its parametrisation."""
  parametrize = torch.nn.utils.parametrize
  for module in model.modules():
    if parametrize.is_parametrized(module):
      for name in list(module.parametrizations):
        parametrize.remove_parametrizations(module, name)
  return model


ENTRY = Entry(
  'transformers',
  'audio/transformers',
  settings=TransformersNetwork,
  make=lambda given: driver.NetworkEncoder(
    configured(TransformersNetwork, weights=given.options['transformers'])
  ),
  rebuild=lambda identity, sources: driver.rebuilt(TransformersNetwork, identity, sources.place(identity)),
  options=(Option('transformers', 'folder of a model of transformers, for audio/transformers'),),
  needs=('transformers',),
  wanted='--transformers, the folder of a model; see gin/encoders for the settings of some',
  pretrained=True,
  essence=driver.essence,
)
