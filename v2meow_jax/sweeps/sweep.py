"""A sweep as gin says it: steps in order, what varies, seeds, and what the table shows."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import gin
from v2meow_jax import errors
from v2meow_jax.sweeps.axes import Axis, Choice, Zip, find_choice, scope_name, texts

_PLACE = re.compile(r'\{(\w+)\}')
# Of these, a second call goes on where the first was stopped; what others left is removed first.
RESUMED = ('train', 'prepare', 'visualize', 'generate')


@gin.register
@dataclasses.dataclass(frozen=True)
class Step:
  """A `v2meow COMMAND` of a pipeline.

  In its arguments `{out}` is what it makes, `{NAME}` what step NAME made, the value on axis NAME, or what
  `Sweep.given` says of NAME, and `{seed}` the trial's seed. An argument that names a step which the trial
  does not have is left out.

  Attributes:
    name: by default the scope that it is made in.
    command: of `v2meow`.
    arguments: of the command.
    speed: arguments that change nothing of what is made, such as `--workers=4`.
    out: name of the file or folder that it makes, within the step's folder.
    grows: a step whose folder `{out}` begins as; its large files are linked, not copied.
    when: axis -> label: the trials that have the step; all by default.
  """

  name: str = ''
  command: str = ''
  arguments: tuple[str, ...] = ()
  speed: tuple[str, ...] = ()
  out: str = 'out'
  grows: str = ''
  when: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    object.__setattr__(self, 'name', self.name or scope_name('Step'))
    if not self.command:
      raise errors.ConfigError(f'step {self.name} names no command of v2meow')


@gin.register
@dataclasses.dataclass(frozen=True)
class Train:
  """A training run as a step: `v2meow train` of a recipe.

  Attributes:
    name: by default the scope that it is made in.
    recipes: gin files, in the order of `--gin_file`.
    settings: gin statements after them, with `{NAME}` as in `Step`.
    dataset: folder of the data, or `{NAME}` of the step that makes it.
    total_steps: of the run; 0: the recipe's.
    seeded: whether the sweep's seeds reach it.
    arguments: further arguments of `v2meow train`, such as `--multiprocess`.
    when: axis -> label: the trials that have the step; all by default.
  """

  name: str = ''
  recipes: tuple[str, ...] = ()
  settings: Any = ()
  dataset: str = ''
  total_steps: int = 0
  seeded: bool = True
  arguments: tuple[str, ...] = ()
  when: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  command = 'train'
  out = 'run'
  grows = ''

  def __post_init__(self):
    object.__setattr__(self, 'name', self.name or scope_name('Train'))
    object.__setattr__(self, 'recipes', texts(self.recipes))
    object.__setattr__(self, 'settings', texts(self.settings))
    if not self.recipes or not self.dataset:
      raise errors.ConfigError(f'step {self.name} needs recipes and a dataset')


@gin.register
@dataclasses.dataclass(frozen=True)
class Halving:
  """Successive halving: of all combinations the best go on, in rungs.

  Jamieson and Talwalkar, arXiv 1502.07943. Rung k of n ends at total_steps / factor^(n + 1 - k); after it the
  best 1/factor of the combinations (by the mean over seeds), and the baseline, go on. The schedule of the
  learning rate is that of the whole run, so that the last ones end as if there had been no rungs.

  Attributes:
    factor: above 1.
    rungs: before the whole run.
    metric: a name or pattern of `Sweep.metrics`; the first by default.
  """

  factor: int = 3
  rungs: int = 1
  metric: str = ''

  def __post_init__(self):
    if self.factor < 2 or self.rungs < 1:
      raise errors.ConfigError('Halving needs a factor of at least 2 and at least one rung')


@gin.register
@dataclasses.dataclass(frozen=True)
class Sweep:
  """What is varied, and what is run for each combination.

  Attributes:
    steps: in an order in which they can be run.
    axes: what varies.
    exclude, require: see `axes.points`.
    seeds: the same for every combination, so that differences are paired.
    baseline: axis -> label; the first choice of an axis that is not named.
    match: what all trials have in common with the baseline: `steps` (nothing is changed), `tokens` or
      `flops`; the number of steps of the training runs follows.
    given: NAME -> text that `{NAME}` stands for.
    metrics: patterns of the metrics that tables show: `STEP/validation/loss`, or what the JSON of a step
      holds, `STEP/stages/coarse/validation/loss`.
    maximize: patterns of those of which more is better.
    halving: stops what is worse early.
    slurm: parameters of submitit, for `--slurm`.
  """

  steps: tuple[Any, ...]
  axes: tuple[Any, ...] = ()
  exclude: tuple[Mapping[str, Any], ...] = ()
  require: tuple[str, ...] = ()
  seeds: tuple[int, ...] = (0,)
  baseline: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  match: str = 'steps'
  given: Mapping[str, str] = dataclasses.field(default_factory=dict)
  metrics: tuple[str, ...] = ('*/validation/loss',)
  maximize: tuple[str, ...] = ()
  halving: Halving | None = None
  slurm: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not all(isinstance(group, Axis | Zip) for group in self.axes):
      raise errors.ConfigError('Sweep.axes are made by @NAME/Axis() and @Zip()')
    if not self.steps or not all(isinstance(step, Step | Train) for step in self.steps):
      raise errors.ConfigError('Sweep.steps are made by @NAME/Train() and @NAME/Step(), one at least')
    if self.match not in ('steps', 'tokens', 'flops'):
      raise errors.ConfigError(f'Sweep.match is {self.match!r}, not steps, tokens or flops')
    if not self.seeds or len(set(self.seeds)) < len(self.seeds):
      raise errors.ConfigError(f'Sweep.seeds {self.seeds}: name at least one, each once')
    if self.halving and [type(step) for step in self.steps] != [Train]:
      raise errors.ConfigError('Sweep.halving is for a sweep whose only step is a training run')
    self._check_names()

  def _check_names(self) -> None:
    known: list[str] = ['out', 'seed', *self.given, *(axis.name for axis in self.single)]
    for step in self.steps:
      if step.name in known or not step.name.isidentifier():
        raise errors.ConfigError(f'step {step.name!r}: another thing is called so, or it is no identifier')
      used = [name for text in written(step) for name in places(text)]
      unknown = next((name for name in [*used, *filter(None, [step.grows])] if name not in known), None)
      if unknown is not None:
        raise errors.ConfigError(
          f'step {step.name}: {{{unknown}}} is no step before it, no axis and not given; '
          f'there are {", ".join(known)}'
        )
      for axis, label in step.when.items():
        find_choice(self.single, axis, label)
      known.append(step.name)

  @property
  def single(self) -> list[Axis]:
    """The axes, zipped ones one by one."""
    return [axis for group in self.axes for axis in group.axes]

  def baseline_point(self) -> dict[str, Choice]:
    """The combination that others are compared with."""
    first = {axis.name: axis.choices[0] for axis in self.single}
    return first | {name: find_choice(self.single, name, value) for name, value in self.baseline.items()}


def written(step: Step | Train) -> tuple[str, ...]:
  """The texts of a step in which `{NAME}` may stand."""
  if isinstance(step, Train):
    return (*step.settings, step.dataset, *step.arguments)
  return (*step.arguments, *step.speed)


def places(text: str) -> list[str]:
  """The names that stand in a text as `{NAME}`."""
  return _PLACE.findall(text)


def fill(text: str, values: Mapping[str, Any]) -> str:
  """The text with every `{NAME}` replaced by what it stands for."""
  return _PLACE.sub(lambda match: str(values[match[1]]), text)
