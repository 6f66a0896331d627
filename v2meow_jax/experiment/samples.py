"""Something to hear and see of a run under way: a stage within a bundle's pipeline, or a codec's own work."""

import dataclasses
import pathlib
import tempfile
from typing import Any

from etils import epath

import gin
from v2meow_jax import bundles, drawing, errors
from v2meow_jax.bundles import types
from v2meow_jax.codec.codec import Codec
from v2meow_jax.generation.pipeline import Generated, Pipeline
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import loudness
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.streams import Stream


@gin.register
@dataclasses.dataclass(frozen=True)
class ClipSampler:
  """Music for one clip by the weights of now, as sound and picture.

  A stage takes the place of its namesake in a bundle, whose other stages and codec do the rest. A codec
  needs no bundle: it encodes and decodes the clip's own sound.

  Attributes:
    clip: a video; for a codec anything with sound.
    bundle: whose other parts are used; for stages.
    seconds: of the clip.
    seed: of the sampling.
  """

  clip: str
  bundle: str = ''
  seconds: float = 10.0
  seed: int = 0

  def __call__(self, about: dict[str, Any], weights: Any, directory: epath.Path) -> None:
    """Writes `sample.wav` and `sample.png`; for a codec `original.wav` and `original.png`, too.

    Raises:
      errors.InputError: the bundle has no such stage, or the clip cannot be read.
    """
    samples = {}
    if about['kind'] == 'codec':
      samples['original'], samples['sample'] = self._reconstruct(about, weights)
    else:
      samples['sample'] = self._generate(about, weights)
    title = f'{pathlib.Path(self.clip).name}, {directory.name}'
    # The writers of sound and picture know local files only.
    with tempfile.TemporaryDirectory() as folder:
      local = pathlib.Path(folder)
      for name, (made, streams) in samples.items():
        sound = loudness.normalize_loudness(made.audio, made.sample_rate)
        audio_files.write_wav(local / f'{name}.wav', sound, made.sample_rate)
        shown = [(stream, made.streams[stream.name]) for stream in streams]
        drawing.draw(local / f'{name}.png', sound, made.sample_rate, shown, title)
      for path in local.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())

  def _reconstruct(self, about: dict, weights: Any) -> list[tuple[Generated, list[Stream]]]:
    """The clip's own sound, and what the codec makes of it."""
    codec = Codec(types.codec(about['codec']), weights)
    channels, seconds = codec.config.channels, self.seconds
    sound, _ = audio_files.load_audio(self.clip, codec.sample_rate, channels, duration=seconds)
    codes = codec.encode(sound)
    made = Generated(codec.decode(codes), codec.sample_rate, {codec.stream.name: codes}, {})
    return [(Generated(sound, codec.sample_rate, {}, {}), []), (made, [codec.stream])]

  def _generate(self, about: dict, weights: Any) -> tuple[Generated, list[Stream]]:
    if not self.bundle:
      raise errors.ConfigError('ClipSampler.bundle is not set: a stage alone makes no sound')
    loaded = bundles.load(self.bundle)
    stage, config = types.stage(about), types.transformer(about)
    runners = loaded.stages()
    names = [runner.stage.name for runner in runners]
    if stage.name not in names or runners[names.index(stage.name)].stage.streams != stage.streams:
      raise errors.ConfigError(
        f'{self.bundle}: there is no stage {stage.name!r} with the same streams, so no sample can be made'
      )
    place = names.index(stage.name)
    runners[place] = StageRunner(StageModel(stage, config), weights, runners[place].sampling)
    pipeline = Pipeline(loaded.encoders(), runners, loaded.codec())
    made = pipeline.generate(self.clip, seed=self.seed, duration=self.seconds)
    return made, pipeline.shown(made)
