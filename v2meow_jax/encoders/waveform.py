"""The audio itself as a stream, for training a codec from the same datasets as the stages."""

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int

import gin
from v2meow_jax import description
from v2meow_jax.encoders.configured import configured
from v2meow_jax.encoders.entry import Entry, Identity, Option, Sources
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream


@gin.register
@dataclasses.dataclass(frozen=True)
class WaveformEncoder:
  """16-bit PCM at `sample_rate` Hz."""

  sample_rate: int = 16000
  channels: int = 1

  needs = 'audio'

  @property
  def stream(self) -> Stream:
    """`audio/waveform`."""
    return Stream('audio/waveform', 'audio', Fraction(self.sample_rate), self.channels)

  @property
  def identity(self) -> dict[str, Any]:
    """The settings."""
    return {'encoder': 'waveform', 'config': description.describe(self)}

  def encode_clip(self, clip: MediaClip) -> Int[np.ndarray, 'samples channels']:
    """Samples in -32768 .. 32767."""
    audio = clip.audio(self.sample_rate, self.channels)
    return np.clip(np.round(audio * 32768.0), -32768, 32767).astype(np.int16)


def _rebuild(identity: Identity, sources: Sources) -> WaveformEncoder:
  del sources
  return description.rebuild(identity['config'], [WaveformEncoder], WaveformEncoder)


ENTRY = Entry(
  'waveform',
  'audio/waveform',
  settings=WaveformEncoder,
  make=lambda given: configured(WaveformEncoder, sample_rate=given.options.get('sample_rate')),
  rebuild=_rebuild,
  options=(Option('sample_rate', 'of audio/waveform, in Hz; 16000 by default', int),),
)
