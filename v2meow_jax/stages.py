"""Which streams condition a stage, which it predicts, how its tokens are laid out, and its crop.

A stage's sequence is a prefix (each condition that is placed there in turn, a fixed number of elements
each) and then the target's steps; to the input of a step is added what aligned conditions say of its
time. The pattern says how a frame's codebook levels become steps:

- `flatten` (AudioLM, MusicLM, V2Meow): one token a step, levels of a frame one after the other;
- `delay` (MusicGen): one step a frame, all levels at once, level k shifted by k steps, so that a
  level still sees the lower levels of its own frame.
"""

import dataclasses
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

import gin
from v2meow_jax import errors
from v2meow_jax.streams import Stream, crop_all, read_nothing

LONGEST_CROP = 3600  # seconds, far beyond what a model can hear at once
PATTERNS = ('flatten', 'delay')
PLACEMENTS = ('prefix', 'aligned')
LARGEST_GAIN = 100
LONGEST_CONTEXT = 60  # seconds, beyond which a network of all elements around a step is no small one


def _checked_levels(stream: Stream, levels: tuple[int, int] | None, role: str) -> tuple[int, int]:
  start, stop = (0, stream.width) if levels is None else levels if len(levels) == 2 else (0, 0)
  if not 0 <= start < stop <= stream.width:
    raise errors.ConfigError(
      f'{role} {stream.name!r}: levels {levels} are not a range (start, stop) within its {stream.width}'
    )
  return start, stop


@gin.register
@dataclasses.dataclass(frozen=True)
class Condition:
  """A stream that a stage is given.

  Attributes:
    stream: embeddings or tokens.
    levels: the codebook levels used, as (start, stop); tokens only, all by default.
    dropout: probability with which training replaces the whole condition by its null vector.
    placement: `prefix`: before the target's steps, where attention finds it; `aligned`: a small network of
      the elements around a step's own time is added to that step's input.
    context: how far around a step the network of an aligned condition sees, in seconds each way.
    gain: training multiplies an embedding by a factor between 1 / gain and gain, drawn for each example, so
      that a video that moves less, or more, than those of the data still tells when it moves.
  """

  stream: Stream
  levels: tuple[int, int] | None = None
  dropout: float = 0.0
  placement: str = 'prefix'
  context: Fraction = Fraction(1)
  gain: float = 1.0

  def __post_init__(self):
    if self.stream.kind == 'tokens':
      object.__setattr__(self, 'levels', _checked_levels(self.stream, self.levels, 'condition'))
    elif self.stream.kind != 'embedding' or self.levels is not None:
      raise errors.ConfigError(
        f'condition {self.stream.name!r}: a condition is a stream of embeddings (without levels) or tokens'
      )
    if not 0 <= self.dropout <= 1:
      raise errors.ConfigError(
        f'condition {self.stream.name!r}: dropout {self.dropout} is not between 0 and 1'
      )
    if not 1 <= self.gain <= LARGEST_GAIN or (self.gain > 1 and self.stream.kind != 'embedding'):
      raise errors.ConfigError(
        f'condition {self.stream.name!r}: gain {self.gain} is not between 1 and {LARGEST_GAIN}, or not of an '
        'embedding'
      )
    if self.placement not in PLACEMENTS:
      raise errors.ConfigError(
        f'condition {self.stream.name!r}: placement {self.placement!r} is not one of {", ".join(PLACEMENTS)}'
      )
    try:
      object.__setattr__(self, 'context', Fraction(self.context))
    except (ValueError, TypeError, ArithmeticError) as error:
      raise errors.ConfigError(
        f'condition {self.stream.name!r}: context {self.context!r} is no number of seconds'
      ) from error
    if not 0 <= self.context <= LONGEST_CONTEXT:
      raise errors.ConfigError(
        f'condition {self.stream.name!r}: context {self.context} is not between 0 and {LONGEST_CONTEXT} s'
      )

  @property
  def span(self) -> tuple[int, int]:
    """The codebook levels used, or the whole width of an embedding."""
    return self.levels or (0, self.stream.width)

  @property
  def reach(self) -> int:
    """Elements before and after the one at a step's time that the step is told, where it is aligned."""
    return math.ceil(self.context * self.stream.rate)


@gin.register
@dataclasses.dataclass(frozen=True)
class Target:
  """The token stream that a stage predicts, the levels of it, and their pattern."""

  stream: Stream
  levels: tuple[int, int] | None = None
  pattern: str = 'flatten'

  def __post_init__(self):
    if self.stream.kind != 'tokens':
      raise errors.ConfigError(f'target {self.stream.name!r}: only token streams can be predicted')
    object.__setattr__(self, 'levels', _checked_levels(self.stream, self.levels, 'target'))
    if self.pattern not in PATTERNS:
      raise errors.ConfigError(
        f'target {self.stream.name!r}: pattern {self.pattern!r} is not one of {", ".join(PATTERNS)}'
      )

  @property
  def span(self) -> tuple[int, int]:
    """The codebook levels predicted, as (start, stop)."""
    return self.levels or (0, self.stream.width)

  @property
  def depth(self) -> int:
    """Number of codebook levels predicted."""
    return self.span[1] - self.span[0]

  @property
  def step_rate(self) -> Fraction:
    """Steps of the sequence a second, in Hz."""
    return self.stream.rate * (self.depth if self.pattern == 'flatten' else 1)


@gin.register
@dataclasses.dataclass(frozen=True)
class Stage:
  """One Transformer's task.

  Attributes:
    name: what its files and metrics are called.
    conditions: what it is given, those of the prefix in its order; groups of them are laid out in place.
    target: what it predicts.
    crop_seconds: length of a training crop and of a window in generation, in seconds.
  """

  name: str
  conditions: tuple[Condition, ...]
  target: Target
  crop_seconds: Fraction

  def __post_init__(self):
    # gin joins no tuples: a group of conditions that goes by one name may stand among the others.
    groups = (group if isinstance(group, tuple | list) else (group,) for group in self.conditions)
    object.__setattr__(self, 'conditions', tuple(condition for group in groups for condition in group))
    object.__setattr__(self, 'crop_seconds', Fraction(self.crop_seconds))
    if self.crop_seconds > LONGEST_CROP:
      raise errors.ConfigError(
        f'stage {self.name!r}: a crop of {float(self.crop_seconds):g} s is more than {LONGEST_CROP} s'
      )
    if self.crop_seconds <= 0 or self.frames < 1:
      raise errors.ConfigError(
        f'stage {self.name!r}: a crop of {self.crop_seconds} s holds no frame of its target'
      )
    names = [(c.stream.name, c.levels, c.placement) for c in self.conditions]
    if len(set(names)) < len(names):
      raise errors.ConfigError(f'stage {self.name!r}: a condition is named twice')
    by_name: dict[str, Stream] = {}
    for stream in (*(c.stream for c in self.conditions), self.target.stream):
      if by_name.setdefault(stream.name, stream) != stream:
        raise errors.ConfigError(f'stage {self.name!r}: stream {stream.name!r} is described in two ways')
    for condition in self.conditions:
      if condition.stream == self.target.stream and condition.span[1] > self.target.span[0]:
        raise errors.ConfigError(
          f'stage {self.name!r}: levels {condition.levels} of {condition.stream.name!r} are given '
          f'though levels {self.target.levels} are to be predicted; only lower levels can be given'
        )

  @property
  def streams(self) -> tuple[Stream, ...]:
    """The streams read, each once, conditions first."""
    return tuple(dict.fromkeys((*(c.stream for c in self.conditions), self.target.stream)))

  def crop(self, read: Callable[[Stream, int, int], np.ndarray], start: Fraction) -> dict[str, Any]:
    """One example, as training and generation are given it: see `streams.crop_all`."""
    return crop_all(self.streams, read, start, self.crop_seconds)

  def empty_batch(self) -> dict[str, np.ndarray]:
    """A batch of one example in which nothing is there: for its shapes."""
    return {name: np.asarray(value)[None] for name, value in self.crop(read_nothing, Fraction(0)).items()}

  @property
  def frames(self) -> int:
    """Frames of the target in a crop."""
    return self.target.stream.length(self.crop_seconds)

  @property
  def steps(self) -> int:
    """Steps of the target's sequence in a crop."""
    return steps_of(self.target, self.frames)

  @property
  def prefix_length(self) -> int:
    """Elements of the prefix."""
    return sum(c.stream.length(self.crop_seconds) for c in self.conditions if c.placement == 'prefix')

  @property
  def step_tokens(self) -> int:
    """Tokens in a step: 1 where flattened, one a level where delayed."""
    return 1 if self.target.pattern == 'flatten' else self.target.depth


def steps_of(target: Target, frames: int) -> int:
  """Steps that `frames` frames take in the target's pattern."""
  if not frames:
    return 0
  return frames * target.depth if target.pattern == 'flatten' else frames + target.depth - 1


def levels_of(target: Target, step):
  """Levels, counted from the target's first, of the tokens of a step: [tokens a step]; NumPy or JAX."""
  return (step + np.arange(1)) % target.depth if target.pattern == 'flatten' else np.arange(target.depth)


def to_steps(target: Target, tokens):
  """Lays frames out as steps.

  Args:
    target: whose pattern and depth hold.
    tokens: [..., frames, depth] integers; NumPy or JAX.

  Returns:
    (steps, valid): [..., steps, tokens a step], and a NumPy boolean [steps, tokens a step] that is
    False where delaying leaves a gap (there the step holds token 0).
  """
  frames, depth = tokens.shape[-2:]
  if target.pattern == 'flatten':
    steps = tokens.reshape(*tokens.shape[:-2], frames * depth, 1)
    return steps, np.ones((frames * depth, 1), bool)
  frame_of = np.arange(frames + depth - 1)[:, None] - np.arange(depth)
  valid = (frame_of >= 0) & (frame_of < frames)
  steps = tokens[..., np.clip(frame_of, 0, frames - 1), np.arange(depth)] * valid
  return steps.astype(tokens.dtype), valid


def from_steps(target: Target, steps):
  """Inverse of `to_steps`: [..., steps, tokens a step] -> [..., frames, depth]."""
  depth = target.depth
  if target.pattern == 'flatten':
    return steps.reshape(*steps.shape[:-2], steps.shape[-2] // depth, depth)
  frames = steps.shape[-2] - depth + 1
  return steps[..., np.arange(frames)[:, None] + np.arange(depth), np.arange(depth)]
