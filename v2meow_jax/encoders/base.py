"""What every frozen encoder offers, be it a filter bank, a codec or a network of another library."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from v2meow_jax import errors
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.media.frames import Reading
from v2meow_jax.streams import Stream


class Encoder(Protocol):
  """Turns a clip of media into the elements of a stream.

  Encoders travel to worker processes, so they can be pickled.

  Attributes:
    stream: what comes out.
    needs: `video`, `audio` or `caption`: what of the clip is read.
  """

  @property
  def stream(self) -> Stream: ...

  @property
  def needs(self) -> str: ...

  @property
  def identity(self) -> Mapping[str, Any]:
    """JSON values that tell this encoder from another: its name, settings and weights' hash."""
    ...

  def encode_clip(self, clip: MediaClip) -> Shaped[np.ndarray, 'n width']:
    """Elements of the clip: `stream.length(clip.duration)` of them."""
    ...


@runtime_checkable
class DeviceEncoder(Encoder, Protocol):
  """An encoder that computes on a device, whose media another process may read for it."""

  def read_clip(self, clip: MediaClip) -> Any:
    """What `encode_read` needs of a clip: arrays. Raises as `encode_clip` does of unreadable media."""
    ...

  def encode_read(self, clips: Sequence[MediaClip], read: Sequence[Any]) -> list[np.ndarray | Exception]:
    """What `encode_clips` makes of the clips, bit for bit; `read` holds an exception where reading failed."""
    ...


@runtime_checkable
class BatchEncoder(Encoder, Protocol):
  """An encoder that is faster on several clips at once."""

  def encode_clips(self, clips: Sequence[MediaClip]) -> list[np.ndarray | Exception]:
    """`encode_clip` of each, or what it would have raised."""
    ...


@runtime_checkable
class GradualEncoder(Encoder, Protocol):
  """An encoder that reads a clip no further than what is asked of it."""

  def encode_gradually(self, clip: MediaClip) -> Iterator[Shaped[np.ndarray, 'n width']]:
    """Blocks that together are `encode_clip`."""
    ...


@runtime_checkable
class StyleEncoder(Encoder, Protocol):
  """An encoder of music, or of what is said of it, whose vectors a text can have as well."""

  def encode_text(self, text: str) -> Shaped[np.ndarray, '1 width']:
    """The element that a text stands for."""
    ...


def readings(encoder: Encoder) -> tuple[Reading, ...]:
  """The pictures that an encoder will ask a clip for, as far as it says so."""
  return getattr(encoder, 'readings', ())


def encode_clips(encoder: Encoder, clips: Sequence[MediaClip]) -> list[np.ndarray | Exception]:
  """The elements of each clip, or why there are none: a clip's failure is not the end of the others.

  Raises:
    errors.ConfigError: the encoder itself cannot be used.
  """
  if isinstance(encoder, BatchEncoder):
    return encoder.encode_clips(clips)
  made: list[np.ndarray | Exception] = []
  for clip in clips:
    try:
      made.append(encoder.encode_clip(clip))
    except errors.ConfigError:
      raise
    except Exception as error:  # of whatever library the encoder uses
      made.append(error)
  return made
