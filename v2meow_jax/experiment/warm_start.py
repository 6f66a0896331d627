"""Beginning a run with weights of another run or of a bundle, by rules, with a list of what came of each."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util

import gin
from v2meow_jax import bundles, errors
from v2meow_jax.bundles import is_run, read_run
from v2meow_jax.bundles.saved_run import FILE
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.training.protocols import Trainable

# Settings of a stage's network that its arrays do not show: with another value they are another network.
SETTINGS = ('heads', 'gated', 'positions', 'time_aligned', 'causal_buckets', 'qk_norm')


@dataclasses.dataclass(frozen=True)
class Report:
  """Parameters by what became of them, by name; `unused` are the source's, the others ours."""

  loaded: tuple[str, ...]
  new: tuple[str, ...]
  unused: tuple[str, ...]

  def __str__(self) -> str:
    lines = [f'warm start: {len(self.loaded)} arrays loaded']
    for kind in ('new', 'unused'):
      names = getattr(self, kind)
      lines += [f'warm start: {len(names)} {kind}: {", ".join(names)}'] if names else []
    return '\n'.join(lines)


@gin.register
@dataclasses.dataclass(frozen=True)
class WarmStart:
  """Weights that a new run begins with.

  Attributes:
    source: a run's directory, or a bundle.
    network: of a bundle: `codec`, or a stage's name.
    rules: pairs of a pattern for the full name of one of our arrays, such as
      `transformer/layer_0/query/kernel` (layers are named so in either layout), and the name of the
      source's array (`\\\\1` is the pattern's first group), or None for an array that is to be new. The
      first that matches counts; what no rule matches keeps its name.
    despite: settings of the source's Transformer, such as `time_aligned`, in which ours may be another.
  """

  source: str
  network: str = ''
  rules: tuple[tuple[str, str | None], ...] = ()
  despite: tuple[str, ...] = ()

  def __post_init__(self):
    for rule in self.rules:
      try:
        pattern, name = rule
        re.sub(pattern, name or '', '')  # the pattern is one, and has the groups that the name refers to
      except (re.error, IndexError, TypeError, ValueError) as error:
        raise errors.ConfigError(
          f'WarmStart.rules: {rule!r} is not a pattern and a name or None ({error})'
        ) from error
      if name is not None and not isinstance(name, str):
        raise errors.ConfigError(f'WarmStart.rules: {name!r} is neither a name nor None')
    if unknown := set(self.despite) - set(SETTINGS):
      raise errors.ConfigError(
        f'WarmStart.despite: {", ".join(sorted(unknown))} is none of {", ".join(SETTINGS)}'
      )

  def read(self) -> dict[str, np.ndarray]:
    """The source's arrays by name."""
    path = epath.Path(self.source)
    if is_run(path):
      weights = read_run(path).weights
    elif (path / 'bundle.json').exists():
      weights = bundles.load(path).network(self.network)
    elif any((path / name).exists() for name in ('checkpoint', 'state')) or any(path.glob('checkpoint_*')):
      # Its names may be ours, and its attention, positions or activations others.
      raise errors.BundleError(
        f'{self.source}: a checkpoint of T5X; v2meow t5x import makes a run of it, and says what differs'
      )
    else:
      raise errors.BundleError(f'{self.source}: neither a run (model.json) nor a bundle (bundle.json)')
    return dict(traverse_util.flatten_dict(weights, sep='/'))  # type: ignore[arg-type] (keys are joined)

  def check(self, config: Mapping[str, Any] | None) -> None:
    """Refuses arrays that would fit by name and shape, and be another network.

    Args:
      config: our Transformer's settings by name; None: it is none.

    Raises:
      errors.BundleError: the source's are others.
    """
    path, theirs = epath.Path(self.source), None
    if is_run(path):
      theirs = json.loads((path / FILE).read_bytes()).get('transformer')
    elif (path / 'bundle.json').exists():
      parts = {part['stage']['name']: part for part in bundles.load(path).about['stages']}
      theirs = parts.get(self.network, {}).get('transformer')
    if theirs is None or config is None:
      return
    # What an earlier version did not describe was what the setting's default is.
    defaults = {field.name: field.default for field in dataclasses.fields(TransformerConfig)}
    for name in SETTINGS:
      was = theirs.get(name, defaults[name])
      if was != config[name] and name not in self.despite:
        raise errors.BundleError(
          f'{self.source}: its Transformer has {name} = {was!r} and ours {config[name]!r}, so its arrays '
          f'would be another network; set that, or add {name!r} to WarmStart.despite'
        )

  def match(self, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[dict[str, Any], Report]:
    """What is loaded, and the report.

    Args:
      ours: arrays or shapes by name.
      theirs: arrays by name.

    Raises:
      errors.BundleError: an array is missing in the source, or has another shape, and no rule says what
        to do about it; or nothing at all is loaded.
    """
    loaded: dict[str, Any] = {}
    new, used = [], set()
    for name, value in sorted(ours.items()):
      source: str | None = name
      for pattern, replacement in self.rules:
        found = re.fullmatch(pattern, name)
        if found:
          source = None if replacement is None else found.expand(replacement)
          break
      if source is None:
        new.append(name)
        continue
      if source not in theirs:
        raise errors.BundleError(
          f'{self.source}: there is no array {source!r} for our {name!r}; add a rule to WarmStart.rules, '
          f'such as ({name!r}, None) for a new one'
        )
      if theirs[source].shape != value.shape:
        raise errors.BundleError(
          f'{self.source}: {source!r} is {theirs[source].shape}, our {name!r} is {value.shape}; add a rule '
          f'to WarmStart.rules, such as ({name!r}, None) for a new one'
        )
      loaded[name] = np.asarray(theirs[source], value.dtype)
      used.add(source)
    if not loaded:
      raise errors.BundleError(f'{self.source}: by the rules nothing of it is loaded')
    return loaded, Report(tuple(loaded), tuple(new), tuple(sorted(set(theirs) - used)))

  def __call__(self, trainable: Trainable, state: Any, jit: Callable) -> tuple[Any, Report]:
    """A state with the source's weights in it.

    Args:
      trainable: whose state it is.
      state: fresh.
      jit: the partitioner's.
    """

    def named(state):
      return traverse_util.flatten_dict(trainable.weights(state), sep='/')

    theirs = self.read()
    self.check(trainable.describe().get('transformer'))
    loaded, report = self.match(jax.eval_shape(named, state), theirs)

    def fill(state, loaded):
      return trainable.with_weights(state, traverse_util.unflatten_dict(named(state) | loaded, sep='/'))

    shardings = jax.tree.map(lambda x: x.sharding, state)
    return jit(fill, out_shardings=shardings)(state, loaded), report
