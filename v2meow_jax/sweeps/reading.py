"""What gin makes of a training step's statements: what it comes to, what nothing reads, how large it is."""

import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

import gin
from v2meow_jax import errors
from v2meow_jax.experiment import bindings, configuration, experiment
from v2meow_jax.experiment.bindings import Binding
from v2meow_jax.training import run
from v2meow_jax.training.protocols import Padded

_STATEMENT = re.compile(r'([\w./]+)\s*=\s*(.*)', re.DOTALL)
_INCLUDE = re.compile(r'include\s+[\'"](.+)[\'"]')
# Where a run lies and how it is looked after: with other values it comes to the same weights and metrics.
_CARE = re.compile(
  r'train\.(model_dir|settings|sampler|writers|most_padding|allow_changes)'
  r'|Settings\.(log_every|checkpoint_every|sample_every|log_minutes|eval_minutes|checkpoint_minutes|keep\w*'
  r'|profile_steps|stop_after_seconds|hang_seconds)'
)


@dataclasses.dataclass(frozen=True)
class Said:
  """A gin statement and who says it, for messages."""

  text: str
  place: str

  @property
  def name(self) -> str:
    """What it binds; of an include the file."""
    match = _INCLUDE.match(self.text) or _STATEMENT.match(self.text)
    if match is None:
      raise errors.ConfigError(f'{self.place}: {self.text!r} is no statement of gin')
    return match[1]


@dataclasses.dataclass(frozen=True)
class Reading:
  """A training step's configuration.

  Attributes:
    resolved: what it comes to, without where the run lies; of this it has its signature.
    unread: statements of those that might be left out which nothing reads.
    near: told about each of those: the nearest names.
  """

  resolved: dict[str, str]
  unread: tuple[Said, ...]
  near: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Size:
  """What a training run is by arithmetic.

  Attributes:
    parameters: of what a bundle would hold.
    flops: model FLOPs of a step; None where there is no formula.
    tokens: predicted in a step.
    steps: of the run.
  """

  parameters: int
  flops: float | None
  tokens: int
  steps: int


def begin() -> None:
  """Readies gin for `read`: imports what may be named, and tells where files lie."""
  configuration.begin()


def _parse(said: Sequence[Said]) -> None:
  gin.clear_config()
  with configuration.quiet():
    for statement in said:
      _ = statement.name  # what is no statement is told before gin stumbles over it
      with configuration.explained(f'{statement.place}: {statement.text}'):
        gin.parse_config(statement.text)


def read(fixed: Sequence[Said], varied: Sequence[Said]) -> Reading:
  """Reads the statements of a step in their order.

  Args:
    fixed: of the step itself.
    varied: of axes, which may be for other steps.

  Raises:
    errors.ConfigError: what gin does not take, with the nearest names where it is a name; a fixed statement
      that nothing reads; a value of a wrong type.
  """
  try:
    _parse([*fixed, *varied])
  except errors.ConfigError as error:
    if not isinstance(error.__cause__, ValueError | AttributeError | TypeError):
      raise
    _parse([said for said in fixed if _INCLUDE.match(said.text)])
    told = [_nearest(said.name) for said in (*fixed, *varied) if f'{said.place}: {said.text}: ' in str(error)]
    raise errors.ConfigError(f'{error}{told[0] if told else ""}') from error
  graph = bindings.Graph(['train'])
  unread = tuple(said for said in varied if not _reads(graph, said))
  near = {said.text: _nearest(said.name) for said in unread}
  own = [
    Binding(said.name, said.text.partition('=')[2].strip(), said.place, True)
    for said in (*fixed, *varied)
    if said not in unread and not _INCLUDE.match(said.text)
  ]
  bindings.check(own, ['train'])
  resolved = {name: value for name, value in graph.resolved().items() if not _CARE.fullmatch(name)}
  return Reading(resolved, unread, near)


def _reads(graph: bindings.Graph, said: Said) -> bool:
  """Whether a statement, or any of the file that it includes, is read."""
  if not _INCLUDE.match(said.text):
    return graph.reads(said.name)
  shipped = configuration.gin_directory()
  return any(
    graph.reads(inner.name) for inner in bindings.written([said.name], [], ['', str(shipped)], shipped)
  )


def _nearest(name: str) -> str:
  """`; near it are A, B`, of what is bound and of what is called takes; or nothing."""
  graph = bindings.Graph(['train'])
  known = set(graph.names())
  for selector in graph.reached:
    known |= {f'{selector}.{parameter}' for parameter in bindings.parameters(selector)}
  near = difflib.get_close_matches(name, sorted(known), 3, 0.6)
  return f'; near it are {", ".join(near)}' if near else ''


def _built(said: Sequence[Said], look: Callable) -> Any:
  """What `look(trainable, batches, partitioner, guard)` returns for a step's configuration."""
  _parse(said)
  with configuration.built():
    return experiment.train(instead=look)  # type: ignore[call-arg] (gin gives the rest)


def size(said: Sequence[Said]) -> Size:
  """How large a run is; nothing is computed and no data read."""

  def look(trainable, batches, partitioner, guard) -> Size:
    shapes = batches.shapes()
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = nn.unbox(jax.eval_shape(run.init_function(trainable, guard), key, shapes))
    weights = jax.eval_shape(trainable.weights, state['trainable'])
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights))
    steps = int(bindings.Graph(['train']).resolved()['Settings.total_steps'])
    return Size(count, trainable.flops(shapes), trainable.tokens(shapes), steps)

  return _built(said, look)


def fingerprint(said: Sequence[Said]) -> str:
  """A hash of the data that a step's configuration names.

  Raises:
    errors.DatasetError: there is none, or it is damaged.
  """

  def look(trainable, batches, partitioner, guard) -> str:
    return batches.fingerprint() if isinstance(batches, Padded) else ''

  return _built(said, look)


def signature(value: Any) -> str:
  """Eight hexadecimal digits of JSON values, the same on every machine."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
