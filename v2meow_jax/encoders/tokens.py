"""Tokens of what any encoder makes: k-means (one level) or residual quantisation (several) of its elements.

Of w2v-BERT's or HuBERT's embeddings they are MusicLM's semantic tokens, of CLAP's MuLan's place, of a picture
network's discrete visual tokens, the role of ViT-VQGAN in V2Meow (other tokens, at the same place).
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

import gin
from v2meow_jax import errors, files
from v2meow_jax.encoders import base
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.encoders.codebooks import Quantizer
from v2meow_jax.encoders.entry import Entry, Identity, Sources
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.media.frames import Reading
from v2meow_jax.streams import Stream


class TokenEncoder:
  """An encoder with a quantiser behind it.

  Args:
    quantizer: of `codebooks.fit`, on the encoder's elements.
    stream: of the tokens.
    embedder_identity: of the encoder that the quantiser was fitted to.
    needs: what that encoder reads.
    embedder: the encoder; None where only the stream is asked for.

  Raises:
    errors.ConfigError: the encoder is not the one that the quantiser was fitted to.
  """

  def __init__(
    self,
    quantizer: Quantizer,
    stream: Stream,
    embedder_identity: Mapping[str, Any],
    needs: str,
    embedder: Encoder | None = None,
  ):
    self.quantizer, self.stream, self.needs = quantizer, stream, needs
    self.embedder, self._embedder_identity = embedder, dict(embedder_identity)
    if embedder is not None and _essence(embedder.identity) != _essence(embedder_identity):
      raise errors.ConfigError(
        f'{stream.name}: the codes were fitted to what another encoder makes, or other weights; give that one'
      )

  @property
  def identity(self) -> dict[str, Any]:
    """The embedder's, and a hash of what was fitted."""
    return {
      'encoder': 'tokens',
      'stream': self.stream.name,
      'embedder': self._embedder_identity,
      'sha256': self.quantizer.digest,
    }

  def encode_clip(self, clip: MediaClip) -> Int[np.ndarray, 'n levels']:
    """Tokens of a clip."""
    return self.quantizer.quantize(self._whole().encode_clip(clip))

  def encode_clips(self, clips: Sequence[MediaClip]) -> list[np.ndarray | Exception]:
    """Tokens of each clip, or why there are none."""
    return self._quantized(base.encode_clips(self._whole(), clips))

  def read_clip(self, clip: MediaClip) -> Any:
    """What `encode_read` needs of a clip; of an encoder without a device, what that makes of it."""
    whole = self._whole()
    return whole.read_clip(clip) if isinstance(whole, base.DeviceEncoder) else whole.encode_clip(clip)

  def encode_read(self, clips: Sequence[MediaClip], read: Sequence[Any]) -> list[np.ndarray | Exception]:
    """What `encode_clips` makes of the clips that have been read."""
    whole = self._whole()
    return self._quantized(whole.encode_read(clips, read) if isinstance(whole, base.DeviceEncoder) else read)

  def _quantized(self, made: Sequence[Any]) -> list[np.ndarray | Exception]:
    return [x if isinstance(x, Exception) else self.quantizer.quantize(x) for x in made]

  @property
  def readings(self) -> tuple[Reading, ...]:
    """What is asked of a clip."""
    return base.readings(self._whole())

  def _whole(self) -> Encoder:
    if self.embedder is None:
      raise errors.ConfigError(f'{self.stream.name}: the network that its codes were fitted to is not given')
    return self.embedder

  def save(self, path: str | pathlib.Path) -> None:
    """Writes a safetensors file with the embedder's identity in its metadata."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(getattr(self.quantizer, name)) for name in _ARRAYS}
    about = {
      'stream': self.stream.name,
      'rate': str(self.stream.rate),
      'needs': self.needs,
      'embedder': json.dumps(self._embedder_identity),
    }
    files.write_bytes(path, save(arrays, metadata=about))


_ARRAYS = ('codebooks', 'mean', 'scale')


def load(path: str | pathlib.Path, embedder: Encoder | None = None) -> TokenEncoder:
  """What `TokenEncoder.save` wrote, with its encoder.

  Raises:
    errors.BundleError: missing or damaged.
    errors.ConfigError: the encoder is another one.
  """
  from safetensors import safe_open

  if not pathlib.Path(path).is_file():
    raise errors.BundleError(f'{path}: missing; see v2meow fit-tokens')
  with (
    errors.translated(errors.BundleError, f'{path}: not the codes of v2meow fit-tokens'),
    safe_open(str(path), 'numpy') as file,
  ):
    about = file.metadata()
    quantizer = Quantizer(*(file.get_tensor(name) for name in _ARRAYS))
    levels, codes, _ = quantizer.codebooks.shape
    stream = Stream(about['stream'], 'tokens', about['rate'], levels, codes)
    identity, needs = json.loads(about['embedder']), about['needs']
  return TokenEncoder(quantizer, stream, identity, needs, embedder)


@gin.register
def tokens_of(embedder: Encoder, codes: str) -> TokenEncoder:
  """An encoder of tokens, for gin.

  Args:
    embedder: that the codes were fitted to.
    codes: file of `v2meow fit-tokens`.
  """
  return load(codes, embedder)


def _essence(identity: Any) -> Any:
  """An identity without the names of places."""
  if not isinstance(identity, Mapping):
    return list(identity) if isinstance(identity, tuple) else identity
  return {key: _essence(value) for key, value in identity.items() if key != 'model'}


def _rebuild(identity: Identity, sources: Sources) -> TokenEncoder:
  return load(sources.folder / ENTRY.file, sources.build(identity['embedder']))


def _make(given: Any) -> TokenEncoder:
  del given
  raise errors.ConfigError(
    'tokens are made of another encoder: name both in a gin file, such as encoders/visual_tokens.gin'
  )


ENTRY = Entry(
  'tokens',
  'tokens',
  make=_make,
  rebuild=_rebuild,
  wanted='a gin file such as encoders/visual_tokens.gin',
  fitted=lambda path: {'sha256': load(path).quantizer.digest},
)
