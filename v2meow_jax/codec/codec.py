"""A codec ready for use: audio to codes and back, whatever network lies behind it."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import gin
from v2meow_jax import description, errors, linen, programs
from v2meow_jax.codec import parts, quantizer
from v2meow_jax.codec import stream as streaming
from v2meow_jax.codec.dac import DacConfig
from v2meow_jax.codec.encodec import EncodecConfig
from v2meow_jax.codec.factorized import FactorizedConfig
from v2meow_jax.codec.parts import Part
from v2meow_jax.codec.soundstream import SoundStreamConfig
from v2meow_jax.codec.spectral import SpectralConfig
from v2meow_jax.codec.stream import State
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream

NetworkConfig = SoundStreamConfig | SpectralConfig | DacConfig | EncodecConfig
# Longer signals are run in blocks of so many seconds.
BLOCK_SECONDS = 10


@gin.register
@dataclasses.dataclass(frozen=True)
class CodecConfig:
  """A network with its quantiser.

  Attributes:
    network: `SoundStreamConfig`, `SpectralConfig`, `DacConfig` or `EncodecConfig`.
    quantizer: the residual quantiser's settings.
    sample_rate: in Hz.
    channels: of the audio.
    stream: name of the token stream that the codec makes.
  """

  network: NetworkConfig
  quantizer: quantizer.QuantizerConfig | FactorizedConfig
  sample_rate: int = 24000
  channels: int = 1
  stream: str = 'audio/acoustic'

  def __post_init__(self):
    if self.sample_rate < 1 or self.channels < 1:
      raise errors.ConfigError('codec: sample rate and channels must be positive')

  def build(self):
    """The Linen network, with methods `encode` and `decode`."""
    return self.network.build(self.channels, self.quantizer.dimension, self.sample_rate)

  @property
  def tokens(self) -> Stream:
    """The stream of codes."""
    rate = Fraction(self.sample_rate, self.network.hop)
    return Stream(self.stream, 'tokens', rate, self.quantizer.levels, self.quantizer.codes)


TYPES = (
  CodecConfig, SoundStreamConfig, SpectralConfig, DacConfig, EncodecConfig, quantizer.QuantizerConfig,
  FactorizedConfig,
)  # fmt: skip


class Codec:
  """Encodes and decodes with fixed weights.

  Args:
    config: what to build.
    weights: `{'params': tree, 'codebooks': what the quantiser's `encode` and `decode` take}`.
    identity: of the weights as trained, where these are stored in fewer bits; computed by default.
    dtype: of the network's arithmetic; the quantiser's is float32.
  """

  needs = 'audio'

  def __init__(
    self, config: CodecConfig, weights: dict, identity: dict | None = None, dtype: str = 'float32'
  ):
    self.config, self.dtype = config, dtype
    self.weights = jax.tree.map(lambda x: np.asarray(x, np.float32), weights)
    self.stream = config.tokens
    self._identity = identity
    network, rvq = config.build(), config.quantizer

    def cast(tree, dtype):
      return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)

    @functools.partial(jax.jit, static_argnames='method')
    def run(weights, x, *carry, method):
      params, x, carry = cast((weights['params'], x, carry), dtype)
      return cast(linen.call(network, params, x, *carry, method=method), jnp.float32)

    def encode(weights, audio):
      return rvq.encode(weights['codebooks'], run(weights, audio, method='encode'))

    def decode(weights, codes):
      return run(weights, rvq.decode(weights['codebooks'], codes), method='decode')

    self._run = run
    self._encode, self._decode = (programs.Kept(way, closed_over=(config, dtype)) for way in (encode, decode))
    self._quantize = jax.jit(lambda weights, latents: rvq.encode(weights['codebooks'], latents))
    self._dequantize = jax.jit(lambda weights, codes: rvq.decode(weights['codebooks'], codes))

  def __reduce__(self):
    # Compiled functions do not travel to other processes.
    return Codec, (self.config, self.weights, self._identity, self.dtype)

  def with_dtype(self, dtype: str) -> 'Codec':
    """The same codec in another precision."""
    return Codec(self.config, self.weights, self.identity, dtype)

  @property
  def sample_rate(self) -> int:
    """Of the audio, in Hz."""
    return self.config.sample_rate

  @property
  def channels(self) -> int:
    """Of the audio."""
    return self.config.channels

  @property
  def hop(self) -> int:
    """Samples a frame."""
    return self.config.network.hop

  @property
  def block(self) -> int:
    """Frames that are run at once of long signals."""
    return max(1, int(BLOCK_SECONDS * self.stream.rate))

  @functools.cached_property
  def _own_identity(self) -> dict:
    params = {name: value for name, value in self.weights['params'].items() if parts.encodes(name)}
    return {
      'encoder': 'codec',
      'config': description.describe(self.config),
      'sha256': _hash(self.weights),
      'codes': _hash({'params': params, 'codebooks': self.weights['codebooks']}),
    }

  @property
  def identity(self) -> dict:
    """What `streams.json` records: settings, and hashes of all weights and of those that make codes."""
    return self._identity or self._own_identity

  def encode(
    self, audio: Float[np.ndarray, '*batch samples channels']
  ) -> Int[np.ndarray, '*batch time levels']:
    """Codes of audio at the codec's rate and number of channels; a last frame that is not full counts.

    Long audio is run in blocks, in constant memory; the result is that of the whole.

    Raises:
      ValueError: another number of channels, no samples, or values that are not finite.
    """
    if audio.ndim not in (2, 3) or audio.shape[-1] != self.channels or not audio.size:
      raise ValueError(f'audio of shape {audio.shape}; the codec takes [samples > 0, {self.channels}]')
    if not np.isfinite(audio).all():
      raise ValueError('the audio holds values that are not finite')
    rows = np.asarray(audio, np.float32)
    rows = rows if audio.ndim == 3 else rows[None]
    if rows.shape[1] > 2 * self.block * self.hop:
      step = self.block * self.hop
      made = list(self.encode_blocks(rows[:, at : at + step] for at in range(0, rows.shape[1], step)))
      codes = np.concatenate(made, 1)
    else:
      codes = np.asarray(self._encode(self.weights, self._filled(rows)))
    return codes if audio.ndim == 3 else codes[0]

  def decode(
    self, codes: Int[np.ndarray, '*batch time levels']
  ) -> Float[np.ndarray, '*batch samples channels']:
    """Audio of time x hop samples from the codes of the first `levels` levels.

    Raises:
      ValueError: codes of another shape or beyond the vocabulary.
    """
    self.check_codes(codes)
    rows = codes if codes.ndim == 3 else codes[None]
    if rows.shape[1] > 2 * self.block:
      blocks = (rows[:, at : at + self.block] for at in range(0, rows.shape[1], self.block))
      audio = np.concatenate(list(self.decode_blocks(blocks)), 1)
    else:
      audio = np.asarray(self._decode(self.weights, jnp.asarray(rows, jnp.int32)))
    # Odd strides leave the last samples out.
    lacks = rows.shape[1] * self.hop - audio.shape[1]
    audio = np.pad(audio, ((0, 0), (0, lacks), (0, 0))) if lacks else audio
    return audio if codes.ndim == 3 else audio[0]

  def encode_blocks(
    self, blocks: Iterable[Float[np.ndarray, 'batch samples channels']]
  ) -> Iterator[np.ndarray]:
    """Codes of audio that comes in blocks of whole frames, but for the last; [batch, frames, levels] each."""
    stream = streaming.Stream(self.config.network.parts('encode'), self._part, self.block)
    state = stream.start()
    for block, last in _marked(blocks):
      x = self._filled(np.asarray(block, np.float32)) if last else block
      state, latents = stream.push(state, x, last)
      if latents is not None:
        yield np.asarray(self._quantize(self.weights, latents))

  def decode_blocks(self, blocks: Iterable[Int[np.ndarray, 'batch frames levels']]) -> Iterator[np.ndarray]:
    """Audio of codes that come in blocks of any number of frames; [batch, samples, channels] each."""
    decoder = self.decoder()
    state = decoder.start()
    for block, last in _marked(blocks):
      state, audio = decoder.push(state, block, last)
      if audio is not None:
        yield audio

  def decoder(self, block: int | None = None) -> 'StreamingDecoder':
    """A decoder that is fed frame by frame or in blocks.

    Args:
      block: frames that are fed at once, to compile for; by default as many as long signals are run in.
    """
    return StreamingDecoder(self, block or self.block)

  def _filled(self, audio: np.ndarray) -> np.ndarray:
    """The audio with zeros to a full last frame, unless the network reflects it there."""
    if not self.config.network.whole_frames:
      return audio
    return np.pad(audio, ((0, 0), (0, -audio.shape[1] % self.hop), (0, 0)))

  def _part(self, part: Part, x: Any, carry: Any) -> tuple[Any, Any]:
    arguments = () if carry is None else (carry,)
    y = self._run(self.weights, x, *arguments, method=part.method)
    return y if part.recurrent else (y, None)

  def check_codes(self, codes: np.ndarray) -> None:
    """Raises a ValueError where `codes` are not ones that can be decoded."""
    levels, vocabulary = self.stream.width, self.stream.codes
    if codes.ndim not in (2, 3) or not codes.size or not 1 <= codes.shape[-1] <= levels:
      raise ValueError(f'codes of shape {codes.shape}; the codec takes [time > 0, 1 to {levels} levels]')
    if codes.min() < 0 or codes.max() >= vocabulary:
      raise ValueError(
        f'codes reach from {codes.min()} to {codes.max()}; the codec has 0 to {vocabulary - 1}'
      )

  def encode_clip(self, clip: MediaClip) -> Int[np.ndarray, 'time levels']:
    """Codes of a clip of a media file; `Encoder`'s method."""
    return self.encode(self.read_clip(clip))[: self.stream.length(clip.duration)]

  def read_clip(self, clip: MediaClip) -> Float[np.ndarray, 'samples channels']:
    """The sound of a clip; `DeviceEncoder`'s method."""
    return clip.audio(self.sample_rate, self.channels)

  def encode_read(self, clips: Sequence[MediaClip], read: Sequence[Any]) -> list[np.ndarray | Exception]:
    """Codes of clips whose sound has been read; `DeviceEncoder`'s method."""
    made: list[np.ndarray | Exception] = []
    for clip, audio in zip(clips, read, strict=True):
      try:
        if isinstance(audio, Exception):
          raise audio
        made.append(self.encode(audio)[: self.stream.length(clip.duration)])
      except Exception as error:  # of whatever kind: one clip's failure is not the end of the others
        made.append(error)
    return made


class StreamingDecoder:
  """Codes in, audio out, as it becomes known; the state is the caller's.

  Up to the order of float32 sums the audio is that of `Codec.decode` for all codes at once.

  Attributes:
    delay: frames of codes that must be there beyond those whose audio is given.
    lead: as many more are needed before the first audio.
  """

  def __init__(self, codec: Codec, block: int):
    chain = codec.config.network.parts('decode')
    self._codec, self._stream = codec, streaming.Stream(chain, codec._part, block)
    ahead = list(itertools.accumulate(part.after for part in chain))
    self.delay = ahead[-1]
    leads = (part.lead for part in chain)
    self.lead = max(0, *(sum(pair) for pair in zip(ahead, leads, strict=True))) - self.delay

  def start(self) -> State:
    """The state before any code."""
    return self._stream.start()

  def push(
    self, state: State, codes: Int[np.ndarray, 'batch frames levels'], last: bool = False
  ) -> tuple[State, Float[np.ndarray, 'batch samples channels'] | None]:
    """Takes codes of one or more frames; gives the new state and the audio that is now known, or None.

    Args:
      state: from `start` or from the push before.
      codes: the next ones.
      last: nothing comes after them.

    Raises:
      ValueError: codes of another shape or beyond the vocabulary.
    """
    codec = self._codec
    if codes.ndim != 3:
      raise ValueError(f'codes of shape {codes.shape}; a stream takes [batch, time > 0, levels]')
    codec.check_codes(codes)
    latents = np.asarray(codec._dequantize(codec.weights, jnp.asarray(codes, jnp.int32)))
    return self._stream.push(state, latents, last)


def _hash(arrays: Any) -> str:
  digest = hashlib.sha256()
  for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(arrays), key=lambda kv: str(kv[0])):
    digest.update(str(path).encode() + np.ascontiguousarray(leaf).tobytes())
  return digest.hexdigest()


def _marked(blocks: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
  """Each block, and whether it is the last."""
  waiting, have = None, False
  for block in blocks:
    if have:
      yield waiting, False
    waiting, have = block, True
  if have:
    yield waiting, True
