"""One driver of all frozen networks: windows, batches across clips, devices, hashes, failures.

A network that fails on a batch is tried on halves of it, for a smaller one may fit into memory; what fails
alone is the failure of the clip that it is of.
"""

import collections
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import gin
from v2meow_jax import description, errors
from v2meow_jax.encoders import exported, pretrained
from v2meow_jax.encoders.network import Network
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.media.frames import Reading
from v2meow_jax.streams import Stream

PRECISIONS = ('float32', 'bfloat16')


@functools.lru_cache(maxsize=8)
def _opened(network: Network, precision: str) -> '_Opened':
  # By network, not by encoder: what is unpickled again and again in a process loads and compiles once.
  return _Opened(network, precision)


class _Opened:
  """A network with its weights on the devices, compiled."""

  def __init__(self, network: Network, precision: str):
    params, apply = network.load()
    self.digest = network.digest(params)
    self._host = network.host
    self._compiled = network.compiled
    if not network.compiled:
      self._apply = functools.partial(apply, params)
      return
    cast = jnp.dtype(precision)
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ('data',))
    self._rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    self._count = len(devices)
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = jax.tree.map(lambda x: jax.device_put(np.asarray(x).astype(cast), whole), params)
    self._apply = functools.partial(jax.jit(apply), params)

  def __call__(self, batch: np.ndarray) -> np.ndarray:
    """[rows, window, ...] -> [rows, elements, width]; tokens are integers."""
    batch = self._host(batch)
    if not self._compiled:
      made = np.asarray(self._apply(batch))
      return made if made.dtype.kind in 'iu' else made.astype(np.float32)
    rows = self._rows if len(batch) % self._count == 0 else None
    return np.asarray(self._apply(jax.device_put(batch, rows)), np.float32)


@gin.register
class NetworkEncoder:
  """A frozen network as an encoder.

  Travels to other processes without its weights, which are read there.

  Args:
    network: which.
    batch: windows that are computed at once, where the network leaves the choice; fewer where memory does not
      allow it.
    precision: of the computation, `float32` or `bfloat16`.
  """

  def __init__(self, network: Network, batch: int = 8, precision: str = 'float32'):
    if batch < 1 or precision not in PRECISIONS:
      raise errors.ConfigError(
        f'{network.name}: batch {batch} and precision {precision!r}: need batch >= 1, and one of '
        f'{", ".join(PRECISIONS)}'
      )
    if network.window < network.hop:
      raise errors.ConfigError(
        f'{network.name}: windows of {network.window} units every {network.hop} would pass some over'
      )
    self.network, self.batch, self.precision = network, network.rows or batch, precision
    self._fits = self.batch

  def __reduce__(self):
    return NetworkEncoder, (self.network, self.batch, self.precision)

  @property
  def needs(self) -> str:
    """`video` or `audio`."""
    return self.network.reads.needs

  @property
  def stream(self) -> Stream:
    """The network's."""
    return self.network.stream

  @property
  def readings(self) -> tuple[Reading, ...]:
    """What is asked of a clip."""
    return self.network.reads.readings

  @functools.cached_property
  def _open(self) -> _Opened:
    return _opened(self.network, self.precision)

  @property
  def identity(self) -> dict[str, Any]:
    """The network's settings, what its weights are called, and their hash; no path."""
    _ = self._open  # whatever is said, the weights have to be there
    if self.network.stated is not None:
      return dict(self.network.stated)
    told = description.describe(self.network)
    del told['weights']
    return {
      'encoder': self.network.name,
      'model': pretrained.name_of(self.network.weights),
      'network': told,
      'precision': self.precision,
      'sha256': self._open.digest,
    }

  def encode_clip(self, clip: MediaClip) -> Float[np.ndarray, 'n width']:
    """The elements of a clip, float32.

    Raises:
      errors.MediaError: it cannot be read.
      errors.EncodingError: the network failed on it.
    """
    (made,) = self.encode_clips([clip])
    if isinstance(made, Exception):
      raise made
    return made

  def encode_clips(self, clips: Sequence[MediaClip]) -> list[np.ndarray | Exception]:
    """The elements of each clip, or why there are none; batches are filled across clips.

    Raises:
      errors.ConfigError: the network cannot be loaded.
    """
    return self._encoded(clips, [None] * len(clips))

  def read_clip(self, clip: MediaClip) -> np.ndarray:
    """Units of a clip [units, ...], read and made without the network; raises as `encode_clip` does."""
    try:
      units = self.network.units(clip)
      return units if isinstance(units, np.ndarray) else np.stack(list(units))
    except errors.InputError:
      raise
    except Exception as error:  # a decoder's or an optical flow's, of whatever kind
      raise _failure(self.network, error) from error

  def encode_read(self, clips: Sequence[MediaClip], read: Sequence[Any]) -> list[np.ndarray | Exception]:
    """What `encode_clips` makes of the clips, whose units have been read."""
    return self._encoded(clips, read)

  def _encoded(self, clips: Sequence[MediaClip], read: Sequence[Any]) -> list[np.ndarray | Exception]:
    _ = self._open
    failed: dict[int, Exception] = {}
    found: list[list[np.ndarray]] = [[] for _ in clips]
    for number, made in self._applied(_windows_of_all(self.network, clips, read, failed)):
      if isinstance(made, Exception):
        failed.setdefault(number, made)
      else:
        found[number].append(made)
    whole: list[np.ndarray | Exception] = []
    for number, (clip, parts) in enumerate(zip(clips, found, strict=True)):
      whole.append(failed[number] if number in failed else _assembled(self.stream, clip, parts))
    return whole

  def encode_gradually(self, clip: MediaClip) -> Iterator[Float[np.ndarray, 'n width']]:
    """The elements of a clip in blocks of a batch; raises as `encode_clip` does."""
    if not self.stream.rate:
      yield self.encode_clip(clip)
      return
    left = self.stream.length(clip.duration)
    windows = ((0, window) for window in windows_of(self.network, clip))
    for block in _batched(windows, self.batch):
      made = self._rows_of(block)
      for part in made:
        if isinstance(part, Exception):
          raise part
      elements = np.concatenate([part for part in made if not isinstance(part, Exception)])[:left]
      left -= len(elements)
      if len(elements):
        yield elements

  def _applied(
    self, windows: Iterable[tuple[int, np.ndarray]]
  ) -> Iterator[tuple[int, np.ndarray | Exception]]:
    for block in _batched(windows, self.batch):
      yield from zip((number for number, _ in block), self._rows_of(block), strict=True)

  def _rows_of(self, block: list[tuple[int, np.ndarray]]) -> list[np.ndarray | Exception]:
    """Elements of each window of a block, computed at most `_fits` at a time."""
    made: list[np.ndarray | Exception] = []
    for part in _batched([window for _, window in block], self._fits):
      made += self._tried(part, self._fits)
    return made

  def _tried(self, windows: list[np.ndarray], count: int) -> list[np.ndarray | Exception]:
    """Elements of windows computed as `count` rows, or by halves where that fails."""
    try:
      # Always as many rows, so that one program serves all.
      rows = np.stack(windows + [windows[-1]] * (count - len(windows)))
      return list(self._open(rows)[: len(windows)])
    except Exception as error:  # of any library, for one network's failure is not the end of the others'
      if count == 1 or self.network.rows:
        return [_failure(self.network, error)] * len(windows)
      half = count // 2
      if _is_of_memory(error):
        self._fits = min(self._fits, half)
      return [made for part in _batched(windows, half) for made in self._tried(part, half)]


def _is_of_memory(error: Exception) -> bool:
  said = str(error).lower()
  return isinstance(error, MemoryError) or 'resource_exhausted' in said or 'out of memory' in said


def _failure(network: Network, error: Exception) -> Exception:
  if isinstance(error, errors.InputError):
    return error
  lines = str(error).strip().splitlines() or [type(error).__name__]
  why = 'not enough memory for one window' if _is_of_memory(error) else lines[0][:200]
  return errors.EncodingError(f'{network.name} failed ({why})')


def _batched(items: Iterable, count: int) -> Iterator[list]:
  held = iter(items)
  while block := list(itertools.islice(held, count)):
    yield block


def _windows_of_all(
  network: Network, clips: Sequence[MediaClip], read: Sequence[Any], failed: dict[int, Exception]
) -> Iterator[tuple[int, np.ndarray]]:
  """(clip's number, window) of clip after clip; what cannot be read goes to `failed`."""
  for number, (clip, units) in enumerate(zip(clips, read, strict=True)):
    try:
      if isinstance(units, Exception):
        raise units
      for window in windows_of(network, clip, units):
        yield number, window
    except errors.InputError as error:
      failed[number] = error
    except Exception as error:  # a decoder's or an optical flow's, of whatever kind
      failed[number] = _failure(network, error)


def windows_of(network: Network, clip: MediaClip, given: np.ndarray | None = None) -> Iterator[np.ndarray]:
  """Windows [window, ...] of a clip, as many as its elements take; `given`: its units, if they are read."""
  stream, reads, window, hop = network.stream, network.reads, network.window, network.hop
  if stream.rate:
    an_element = reads.rate / stream.rate
    count = math.ceil(stream.length(clip.duration) * an_element / hop)
    before = (window - hop) // 2
  else:
    units = round(clip.duration * reads.rate)
    count, before = max(1, -(-(units - window) // hop) + 1), 0
  units = network.units(clip) if given is None else given
  if reads.needs == 'audio':
    assert isinstance(units, np.ndarray)
    after = max(0, (count - 1) * hop - before + window - len(units))
    padded = np.pad(units, ((before, after), *[(0, 0)] * (units.ndim - 1)))
    yield from (padded[k * hop : k * hop + window] for k in range(count))
    return
  held: collections.deque = collections.deque(maxlen=window)
  lasting = _lasting(units)
  first = next(lasting, None)
  if first is None:
    raise errors.MediaError(f'clip of {clip.video}: there is no picture in it')
  held.extend([first] * (before + 1))
  held.extend(itertools.islice(lasting, window - before - 1))
  for k in range(count):
    if k:
      held.extend(itertools.islice(lasting, hop))
    yield np.stack(held)


def _lasting(units: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
  """The units, and the last one for ever."""
  unit = None
  for unit in units:
    yield unit
  if unit is not None:
    yield from itertools.repeat(unit)


def _assembled(stream: Stream, clip: MediaClip, parts: list[np.ndarray]) -> np.ndarray | Exception:
  made = np.concatenate(parts) if parts else np.zeros((0, stream.width), np.float32)
  made = made[: stream.length(clip.duration)] if stream.rate else made.mean(0, keepdims=True)
  if not np.isfinite(made).all():
    return errors.EncodingError(f'{stream.name}: the network gave values that are not finite')
  return made


def essence(identity: dict[str, Any]) -> dict[str, Any]:
  """What tells two encoders apart: the model's name is a place, and the hash says which it is."""
  return {key: value for key, value in identity.items() if key != 'model'}


def rebuilt(kind: type, identity: Mapping[str, Any], place: str | None) -> NetworkEncoder:
  """The encoder of an identity, its weights at `place`, by default where the identity's name leads."""
  if place and exported.is_exported(place):
    return NetworkEncoder(exported.ExportedNetwork(place), precision=identity['precision'])
  told = {**identity['network'], 'weights': place or identity['model']}
  return NetworkEncoder(description.rebuild(told, [kind], kind), precision=identity['precision'])
