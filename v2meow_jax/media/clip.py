"""A span of a media file, read lazily and once."""

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from v2meow_jax import errors
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import frames as video_frames


@dataclasses.dataclass(frozen=True)
class MediaClip:
  """What an encoder is given.

  Attributes:
    video: path of the video file; None where there is none.
    audio_path: path of the file that holds the music; may be the same.
    start: of the clip within both files, in seconds.
    duration: in seconds.
    caption: what is said of the music; empty where nothing is.
  """

  video: str | None
  audio_path: str | None
  start: float
  duration: float
  caption: str = ''
  _cache: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

  def frames(self, rate: Fraction, size: tuple[int, int], cover: bool = False) -> Iterator[np.ndarray]:
    """RGB frames [height, width, 3] at `rate` Hz; `size` is (width, height); `cover`: see `read_frames`."""
    if self.video is None:
      raise errors.MediaError(f'clip of {self.audio_path}: there is no video to read frames from')
    return video_frames.read_frames(self.video, rate, size, self.start, self.duration, cover)

  def audio(self, sample_rate: int, channels: int = 1) -> np.ndarray:
    """float32 [samples, channels] of exactly the clip's duration; zeros where the file is short."""
    if self.audio_path is None:
      raise errors.MediaError(f'clip of {self.video}: there is no audio to read')
    key = (sample_rate, channels)
    if key not in self._cache:
      samples, _ = audio_files.load_audio(self.audio_path, sample_rate, channels, self.start, self.duration)
      length = round(self.duration * sample_rate)
      self._cache[key] = np.pad(samples[:length], ((0, max(0, length - len(samples))), (0, 0)))
    return self._cache[key]
