"""What bundles and runs describe in JSON, and a stage or codec from such a description."""

from typing import Any

import msgspec

from v2meow_jax import description
from v2meow_jax.codec import codec as codec_lib
from v2meow_jax.codec.codec import CodecConfig
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

FORMAT = 2  # 2: guidance in the sampling, style encoders
# Nothing else is ever constructed.
TYPES = (*codec_lib.TYPES, TransformerConfig, Stage, Condition, Target, Stream, Sampling)


class File(msgspec.Struct):
  """What `bundle.json` says of a file."""

  file: str
  sha256: str


class _Codec(File):
  config: dict[str, Any]
  identity: dict[str, Any] | None = None


class _Stage(File):
  stage: dict[str, Any]
  transformer: dict[str, Any]
  sampling: dict[str, Any]


class _Encoder(msgspec.Struct):
  encoder: str


class About(msgspec.Struct):
  """`bundle.json`; what else stands there is for people."""

  format: int
  codec: _Codec
  stages: list[_Stage]
  encoders: list[_Encoder]
  token_encoders: list[_Encoder] = []
  semantic: File | None = None
  style: File | None = None
  tokens: File | None = None
  stablehlo: list[File] = []


def check(about: dict[str, Any]) -> None:
  """Raises `errors.ConfigError` or ValueError where what `bundle.json` says is not what it should be of."""
  msgspec.convert(about, About, strict=True)
  codec(about['codec']['config'])
  for part in about['stages']:
    for describe in (stage, transformer, sampling):
      describe(part)


def stage(about: dict[str, Any]) -> Stage:
  """The stage that a run's `model.json`, or its part of `bundle.json`, describes."""
  return description.rebuild(about['stage'], TYPES, Stage)


def transformer(about: dict[str, Any]) -> TransformerConfig:
  """Its network's settings."""
  return description.rebuild(about['transformer'], TYPES, TransformerConfig)


def sampling(about: dict[str, Any]) -> Sampling:
  """How a bundle draws its tokens."""
  return description.rebuild(about['sampling'], TYPES, Sampling)


def codec(about: dict[str, Any]) -> CodecConfig:
  """A codec's settings as `bundle.json` has them under `config`."""
  return description.rebuild(about, TYPES, CodecConfig)


def runner(about: dict[str, Any], weights: Any) -> StageRunner:
  """A bundle's stage, ready to run."""
  return StageRunner(StageModel(stage(about), transformer(about)), weights, sampling(about))
