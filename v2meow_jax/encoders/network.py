"""What the file of a frozen network says: what it reads, what stream it makes, and how it is loaded.

Everything else (windows, batches, devices, hashes) is `driver.NetworkEncoder`'s.
"""

import dataclasses
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from v2meow_jax import errors
from v2meow_jax.encoders import weights
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.media.frames import Reading
from v2meow_jax.streams import Stream

Apply = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Pictures:
  """RGB pictures, uint8 [height, width, 3]: scaled to cover `size` = (width, height), the middle cut out."""

  rate: Fraction
  size: tuple[int, int]

  needs = 'video'

  @property
  def readings(self) -> tuple[Reading, ...]:
    """What is asked of a clip."""
    return (Reading(Fraction(self.rate), self.size, True),)

  def of(self, clip: MediaClip) -> Iterable[np.ndarray]:
    """The clip's, decoded as they are taken."""
    return clip.frames(self.rate, self.size, cover=True)


@dataclasses.dataclass(frozen=True)
class Sound:
  """Samples, float32 [channels] each, at `rate` Hz."""

  rate: int
  channels: int = 1

  needs = 'audio'
  readings = ()

  def of(self, clip: MediaClip) -> np.ndarray:
    """The clip's, [samples, channels]."""
    return clip.audio(self.rate, self.channels)


class Network:
  """A frozen network; its subclasses are frozen dataclasses, whose fields gin binds.

  A unit is a picture or a sample of what is read. Window k holds `window` units around the `hop` units from
  k x hop on; it becomes the elements that lie over those. Before the first picture and after the last those
  two are repeated; sound is silent there.

  Attributes:
    name: of the encoder in identities.
    extra: of this package that the network needs; empty: none.
    compiled: whether `apply` is pure and of JAX.
    any_batch: whether `apply` can be compiled for a number of windows that is not known yet.
    rows: windows that `apply` takes, no other number; 0: any.
    on_host: whether `host` does a part of the work.
    stated: the whole identity of the encoder, where the weights themselves say it.
    weights: a folder or file; not part of what tells the network from another.
  """

  name: ClassVar[str]
  extra: ClassVar[str] = ''
  compiled: ClassVar[bool] = True
  any_batch: ClassVar[bool] = True
  rows: ClassVar[int] = 0
  on_host: ClassVar[bool] = False
  stated: ClassVar[dict[str, Any] | None] = None
  weights: str

  @property
  def reads(self) -> Pictures | Sound:
    """What the clip is read as."""
    raise NotImplementedError

  @property
  def stream(self) -> Stream:
    """What comes out; where its rate is 0, the mean over the windows."""
    raise NotImplementedError

  @property
  def window(self) -> int:
    """Units that an application of the network sees."""
    return self.hop

  @property
  def hop(self) -> int:
    """Units from a window to the next."""
    return units_an_element(self)

  def units(self, clip: MediaClip) -> Iterable[np.ndarray]:
    """What windows are cut from: what is read, or what is made of it on the host (such as optical flow)."""
    return self.reads.of(clip)

  def load(self) -> tuple[Any, Apply]:
    """(params, apply): apply(params, [batch, window, ...]) -> [batch, elements a window, width].

    Raises:
      errors.ConfigError: the weights or the extra are not there, or of something else.
    """
    raise NotImplementedError

  def host(self, rows: np.ndarray) -> np.ndarray:
    """What `apply` is given of windows [batch, window, ...]: preprocessing that is not JAX's."""
    return rows

  def digest(self, params: Any) -> str:
    """A hash of the weights."""
    return weights.digest(params)


def units_an_element(network: Network) -> int:
  """Units that an element of the stream lies over.

  Raises:
    errors.ConfigError: that is no whole number.
  """
  units = network.reads.rate / network.stream.rate
  if units % 1:
    raise errors.ConfigError(
      f'{network.name}: {network.stream.rate} elements a second do not divide the {network.reads.rate} Hz '
      'that are read'
    )
  return int(units)
