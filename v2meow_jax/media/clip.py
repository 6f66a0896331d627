"""A span of a media file, read lazily and, where several encoders want it, once."""

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from v2meow_jax import errors
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import frames as video_frames
from v2meow_jax.media.frames import Reading


@dataclasses.dataclass(frozen=True)
class MediaClip:
  """What an encoder is given.

  Attributes:
    video: path of the video file; None where there is none.
    audio_path: path of the file that holds the music; may be the same.
    start: of the clip within both files, in seconds.
    duration: in seconds.
    caption: what is said of the music; empty where nothing is.
    readings: that several encoders will ask for, each as often as it is asked for: the video is decoded once
      for all, and pictures are kept until the last has them. Others are decoded as they are taken.
  """

  video: str | None
  audio_path: str | None
  start: float
  duration: float
  caption: str = ''
  readings: tuple[Reading, ...] = ()
  _cache: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

  def frames(self, rate: Fraction, size: tuple[int, int], cover: bool = False) -> Iterator[np.ndarray]:
    """RGB frames [height, width, 3] at `rate` Hz; `size` is (width, height); `cover`: see `Reading`."""
    if self.video is None:
      raise errors.MediaError(f'clip of {self.audio_path}: there is no video to read frames from')
    asked = Reading(Fraction(rate), (int(size[0]), int(size[1])), cover)
    if len(self.readings) < 2 or asked not in self.readings:
      return video_frames.read_frames(self.video, rate, size, self.start, self.duration, cover)
    if asked not in self._cache:
      self._read()
    pictures, left = self._cache.pop(asked)
    if left > 1:
      self._cache[asked] = pictures, left - 1
    return iter(pictures)

  def _read(self) -> None:
    """Decodes for all readings."""
    assert self.video is not None
    wanted = list(dict.fromkeys(self.readings))
    pictures: list[list[np.ndarray]] = [[] for _ in wanted]
    for number, picture in video_frames.read_several(self.video, wanted, self.start, self.duration):
      pictures[number].append(picture)
    self._cache.update(
      {one: (made, self.readings.count(one)) for one, made in zip(wanted, pictures, strict=True)}
    )

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
