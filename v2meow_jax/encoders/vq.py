"""Discrete tokens of pictures by published tokenizers, as transformers has them: the VQ-GANs inside Chameleon
and Janus, and FLAVA's codebook (the dVAE of DALL-E). They have the role of ViT-VQGAN's tokens in V2Meow.

A picture's tokens follow each other in reading order, within the time for which the picture stands.
"""

import dataclasses
import functools
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

import gin
from v2meow_jax import errors
from v2meow_jax.encoders import driver, hub, weights
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry, Option
from v2meow_jax.encoders.network import Apply, Network, Pictures
from v2meow_jax.streams import Stream


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A kind of tokenizer of transformers.

  Attributes:
    type: its `model_type`.
    network, config: names of its classes.
    codes: what `config.json` calls their number.
    default: number of codes, pixels and factor by which the grid is smaller, where that does not say.
    scaling: (factor, offset) of pixels in [0, 1].
    within: `model_type` of the model that it is published in; its arrays are there called `model.vqmodel.*`.
  """

  type: str
  network: str
  config: str
  codes: str
  default: tuple[int, int, int]
  scaling: tuple[float, float]
  within: str | None = None


_PREFIX = 'model.vqmodel.'
TOKENIZERS = (
  # FlavaImageProcessor maps pixels away from 0 and 1 by a tenth; three of its four groups halve the picture.
  Tokenizer(
    'flava_image_codebook', 'FlavaImageCodebook', 'FlavaImageCodebookConfig', 'vocab_size',
    (8192, 112, 8), (0.8, 0.1),
  ),
  Tokenizer(
    'chameleon_vqgan', 'ChameleonVQVAE', 'ChameleonVQVAEConfig', 'num_embeddings',
    (8192, 512, 16), (2.0, -1.0), 'chameleon',
  ),
  Tokenizer(
    'janus_vqgan', 'JanusVQVAE', 'JanusVQVAEConfig', 'num_embeddings', (16384, 384, 16), (2.0, -1.0), 'janus',
  ),
)  # fmt: skip


@gin.register
@dataclasses.dataclass(frozen=True)
class VqNetwork(Network):
  """A published tokenizer of pictures, run by PyTorch.

  Attributes:
    weights: folder of the tokenizer, or of the model that it is a part of.
    pictures: a second, in Hz.
    side: pixels of a side of the square that is looked at; the model's own by default. A grid has
      (side / factor)^2 tokens, of which a stage sees `pictures` a second.
    stream_name: of what comes out.
  """

  weights: str
  pictures: Fraction = Fraction(1)
  side: int = 0
  stream_name: str = 'video/vq'

  name: ClassVar[str] = 'vq'
  extra: ClassVar[str] = 'encoders'
  compiled: ClassVar[bool] = False

  def __post_init__(self):
    object.__setattr__(self, 'pictures', Fraction(self.pictures))
    factor = self._factor
    if self._side % factor or self._side < factor:
      raise errors.ConfigError(
        f'vq: side {self._side} is no multiple of {factor} pixels, which a token stands for'
      )

  @property
  def _kind(self) -> Tokenizer:
    told = weights.settings(self.weights).get('model_type')
    for kind in TOKENIZERS:
      if told in (kind.type, kind.within):
        return kind
    known = ', '.join(name for kind in TOKENIZERS for name in (kind.type, kind.within) if name)
    raise errors.ConfigError(f'{self.weights}: a model of type {told!r}; tokenizers known here are {known}')

  @property
  def _settings(self) -> dict[str, Any]:
    told = weights.settings(self.weights)
    return told if told['model_type'] == self._kind.type else told.get('vq_config') or {}

  @property
  def _factor(self) -> int:
    halvings = self._settings.get('channel_multiplier')
    return 2 ** (len(halvings) - 1) if halvings else self._kind.default[2]

  @property
  def _side(self) -> int:
    return self.side or int(self._settings.get('resolution') or self._kind.default[1])

  @property
  def reads(self) -> Pictures:
    """Squares."""
    return Pictures(self.pictures, (self._side, self._side))

  @property
  def stream(self) -> Stream:
    """Tokens of one level, those of a picture one after the other."""
    kind, grid = self._kind, (self._side // self._factor) ** 2
    codes = int(self._settings.get(kind.codes) or kind.default[0])
    return Stream(self.stream_name, 'tokens', self.pictures * grid, 1, codes)

  @property
  def hop(self) -> int:
    """A picture."""
    return 1

  def load(self) -> tuple[Any, Apply]:
    """See `Network.load`."""
    torch, transformers = hub.library()
    kind = self._kind
    told = weights.settings(self.weights)
    prefix = '' if told['model_type'] == kind.type else _PREFIX
    with errors.translated(errors.ConfigError, f'{self.weights}: its tokenizer cannot be made'):
      model = getattr(transformers, kind.network)(getattr(transformers, kind.config)(**self._settings))
    arrays = {}
    for path in weights.files(self.weights):
      arrays |= _tensors(path, prefix)
    wanted = model.state_dict()
    if missing := sorted(set(wanted) - set(arrays)):
      raise errors.ConfigError(
        f'{self.weights}: {len(missing)} arrays are missing, such as {prefix}{missing[0]}; the model is '
        'incomplete, copy it again'
      )
    for name, tensor in wanted.items():
      if arrays[name].shape != tensor.shape:
        raise errors.ConfigError(
          f'{self.weights}: {prefix}{name} is not of the shape that config.json asks for'
        )
    model.load_state_dict({name: arrays[name] for name in wanted})
    return model.eval().requires_grad_(False), functools.partial(_codes, torch, kind)

  def digest(self, params: Any) -> str:
    """Of the tokenizer's own arrays."""
    return weights.digest({name: tensor.numpy() for name, tensor in params.state_dict().items()})


def _tensors(path: Any, prefix: str) -> dict[str, Any]:
  """Tensors of a file whose names begin so, for those of a whole model are many; floats in float32."""
  from safetensors import safe_open

  with (
    errors.translated(errors.ConfigError, f'{path}: no safetensors file that can be read'),
    safe_open(str(path), 'pt') as file,
  ):
    names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (no dictionary)
    made = {name[len(prefix) :]: file.get_tensor(name) for name in names}
  return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in made.items()}


def _codes(torch: Any, kind: Tokenizer, model: Any, rows: np.ndarray) -> np.ndarray:
  """Pictures uint8 [batch, 1, height, width, 3] -> codes [batch, tokens, 1]."""
  factor, offset = kind.scaling
  pixels = np.moveaxis(rows[:, 0].astype(np.float32) / 255 * factor + offset, -1, 1)
  with torch.inference_mode():
    given = torch.from_numpy(np.ascontiguousarray(pixels))
    if kind.within is None:
      made = model.get_codebook_indices(given)
    else:
      made = model.encode(given).image_tokens
  return made.reshape(len(rows), -1, 1).numpy()


ENTRY = Entry(
  'vq',
  'video/vq',
  settings=VqNetwork,
  make=lambda given: driver.NetworkEncoder(configured(VqNetwork, weights=given.options['vq'])),
  rebuild=lambda identity, sources: driver.rebuilt(VqNetwork, identity, sources.place(identity)),
  options=(Option('vq', 'folder of a tokenizer of pictures of transformers, for video/vq'),),
  needs=('vq',),
  wanted="--vq, the folder of a tokenizer such as FLAVA's, Chameleon's or Janus'",
  pretrained=True,
  essence=driver.essence,
)
