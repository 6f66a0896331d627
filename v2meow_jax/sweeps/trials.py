"""From a sweep to its trials, and from those to pieces of work, of which several trials may share one.

A piece of work is a step with everything that decides what it makes. Of that it has its signature, so what
has been made once is not made again: not by the same command, nor by a sweep that has grown, nor for another
trial.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from v2meow_jax import errors, names
from v2meow_jax.sweeps import axes, reading
from v2meow_jax.sweeps.axes import Point
from v2meow_jax.sweeps.reading import Said, Size
from v2meow_jax.sweeps.sweep import Step, Sweep, Train, fill, places

_LONGEST = 120  # characters of what differs in a folder's name
_NOWHERE = 'nowhere'


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
  """A step of a trial, or of several that have it in common.

  Attributes:
    step: which.
    signature: of all that decides what it makes.
    label: what differs from other work of the same step.
    values: what `{NAME}` stands for, where it is no step.
    inputs: the work of the steps that it names.
    statements: of a training run: what the trial sets.
    resolved: of a training run: what its configuration comes to.
    measure: makes `size`.
  """

  step: Step | Train
  signature: str
  label: str
  values: Mapping[str, Any]
  inputs: Mapping[str, 'Work']
  statements: tuple[str, ...] = ()
  resolved: Mapping[str, str] = dataclasses.field(default_factory=dict)
  measure: Callable[[], Size | None] = lambda: None

  @functools.cached_property
  def size(self) -> Size | None:
    """Of a training run, when it is asked for: it takes a second to be found."""
    return self.measure()

  @property
  def name(self) -> str:
    """`step/label-signature`, the folder within the sweep's."""
    return f'{self.step.name}/{self.label}-{self.signature}'

  def folder(self, root: pathlib.Path) -> pathlib.Path:
    """Its folder: one with this signature where there is one, for what differs is told by the whole sweep."""
    there = sorted((root / self.step.name).glob(f'*-{self.signature}'))
    return there[0] if there else root / self.name

  def output(self, root: pathlib.Path) -> pathlib.Path:
    """What it makes."""
    return self.folder(root) / self.step.out

  def _standing(self, root: pathlib.Path) -> dict[str, Any]:
    made = {name: work.output(root) for name, work in self.inputs.items()}
    return {**self.values, **made, 'out': self.output(root)}

  def configuration(self, root: pathlib.Path) -> str:
    """Of a training run: a gin file that says all of it."""
    step, standing = self.step, self._standing(root)
    assert isinstance(step, Train)
    lines = [
      '# Written by v2meow sweep.',
      *(f"include '{recipe}'" for recipe in step.recipes),
      *(fill(text, standing) for text in (*step.settings, *self.statements)),
      f'DATASET_DIR = {fill(step.dataset, standing)!r}',
      f'MODEL_DIR = {str(self.output(root))!r}',
    ]
    return '\n'.join(_last_of_each(lines)) + '\n'

  def arguments(self, root: pathlib.Path) -> list[str]:
    """What stands behind `v2meow`."""
    standing = self._standing(root)
    if isinstance(self.step, Train):
      config = self.folder(root) / 'trial.gin'
      return ['train', f'--gin_file={config}', *(fill(text, standing) for text in self.step.arguments)]
    given = [text for text in (*self.step.arguments, *self.step.speed) if set(places(text)) <= set(standing)]
    return [self.step.command, *(fill(text, standing) for text in given)]


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
  """A combination with a seed.

  Attributes:
    point: the combination.
    seed: shared by a trial of every combination.
    works: by the step's name, in order.
  """

  point: Point
  seed: int
  works: Mapping[str, Work]

  @property
  def combination(self) -> str:
    """What differs from other combinations."""
    return ' '.join(axes.labels(self.point)) or 'the one'

  @property
  def name(self) -> str:
    """What differs from other trials."""
    return f'{self.combination} seed={self.seed}'


def _last_of_each(lines: Sequence[str]) -> list[str]:
  """Without statements that a later one of the same name overrides, of which training would warn."""
  last = {Said(line, '').name: number for number, line in enumerate(lines) if not line.startswith('#')}
  return [
    line for number, line in enumerate(lines) if line.startswith('#') or last[Said(line, '').name] == number
  ]


def data_of(said: Sequence[Said]) -> str:
  """The fingerprint of the dataset that a step's configuration names."""
  return reading.fingerprint(said)


def expand(sweep: Sweep, data: Callable[[Sequence[Said]], str] = data_of) -> list[Trial]:
  """All trials, combination by combination, seeds innermost.

  Args:
    sweep: which.
    data: a training step's statements -> a hash of the data they name.

  Raises:
    errors.ConfigError: an axis that sets what nothing reads, or that changes nothing; two trials that are the
      same; what `reading.read` refuses.
    errors.DatasetError: a dataset is missing.
  """
  reading.begin()
  maker = _Maker(sweep, data)
  found = [
    Trial(point, seed, maker.works(point, seed))
    for point in axes.points(sweep.axes, sweep.exclude, sweep.require)
    for seed in sweep.seeds
  ]
  maker.check_axes()
  seen: dict[tuple[str, ...], Trial] = {}
  for trial in found:
    other = seen.setdefault(tuple(work.signature for work in trial.works.values()), trial)
    if other is not trial:
      raise errors.ConfigError(
        f'the trials {other.name} and {trial.name} come to the same configuration; leave one out, by '
        'Sweep.exclude for instance'
      )
  return found


class _Maker:
  """Makes the work of trials, each piece once."""

  def __init__(self, sweep: Sweep, data: Callable[[Sequence[Said]], str]):
    self._sweep, self._data = sweep, data
    self._made: dict[tuple, Work] = {}
    self._read: dict[tuple, reading.Reading] = {}
    self._sizes: dict[tuple, Size] = {}
    self._prints: dict[tuple, str] = {}
    self._used: set[str] = {name for step in sweep.steps for name in step.when}  # axes that change something
    self._heard: set[str] = set()  # statements of axes that are read
    self._unheard: dict[str, tuple[Said, str]] = {}
    self._touched: dict[str, set[str]] = {}  # signature -> axes and `seed` that it depends on

  def works(self, point: Point, seed: int) -> dict[str, Work]:
    """The work of a trial, by the step's name."""
    made: dict[str, Work] = {}
    values = {**self._sweep.given, **{name: choice.value for name, choice in point.items()}, 'seed': seed}
    for step in self._sweep.steps:
      if all(label in (point[axis].value, point[axis].label) for axis, label in step.when.items()):
        if isinstance(step, Train):
          work = self._train(step, point, seed, values, made)
        else:
          work = self._step(step, point, seed, values, made)
        made[step.name] = self._made.setdefault((step.name, work.signature), work)
    return made

  def check_axes(self) -> None:
    """Refuses an axis of which a statement is read nowhere, or that nothing looks at."""
    for text, (said, near) in self._unheard.items():
      if text not in self._heard:
        raise errors.ConfigError(f'{said.place}: nothing reads {said.name} in any step{near}')
    for axis in self._sweep.single:
      if axis.name not in self._used:
        raise errors.ConfigError(f'axis {axis.name}: no step changes with it')

  def _finish(
    self, step: Step | Train, about: Any, depends: set[str], point: Point, seed: int, **fields: Any
  ) -> Work:
    """The work with its signature and label; `depends` are axes, and `seed`."""
    mark = reading.signature(about)
    self._used |= depends
    known = self._touched.setdefault(mark, depends)
    differs = [f'{name}={choice.label}' for name, choice in point.items() if name in known]
    if 'seed' in known:
      differs.append(f'seed={seed}')
    label = names.safe(','.join(differs).replace(' ', '_'))[:_LONGEST] if differs else 'all'
    return Work(step, mark, label, **fields)

  def _step(
    self, step: Step, point: Point, seed: int, values: dict[str, Any], made: Mapping[str, Work]
  ) -> Work:
    standing = {**values, **{name: f'<{work.signature}>' for name, work in made.items()}, 'out': '<out>'}
    given = [text for text in step.arguments if set(places(text)) <= set(standing)]
    used = {name for text in step.arguments for name in places(text)} | ({step.grows} - {''})
    inputs = {name: made[name] for name in {*used, *_named(step.speed)} if name in made}
    depends = used & ({*point, 'seed'})
    for work in inputs.values():
      depends |= self._touched[work.signature]
    for other in self._sweep.steps:  # whether an argument is there at all
      if other.name in used:
        depends |= set(other.when)
    about = [step.command, step.out, [_content(fill(text, standing)) for text in given]]
    if step.grows in made:
      about.append(made[step.grows].signature)
    return self._finish(step, about, depends, point, seed, values=values, inputs=inputs)

  def _train(
    self, step: Train, point: Point, seed: int, values: dict[str, Any], made: Mapping[str, Work]
  ) -> Work:
    used = _named((*step.settings, step.dataset, *step.arguments))
    inputs = {name: made[name] for name in used if name in made}
    standing = {**values, **{name: f'<{work.signature}>' for name, work in made.items()}}
    place = f'step {step.name}'
    dataset = fill(step.dataset, standing)
    fixed = [Said(f"include '{recipe}'", place) for recipe in step.recipes]
    fixed += [Said(fill(text, standing), place) for text in step.settings]
    fixed.append(Said(f'DATASET_DIR = {dataset!r}', place))
    where = Said(f'MODEL_DIR = {_NOWHERE!r}', place)
    varied = [
      (name, Said(fill(text, standing), f'axis {name}'))
      for name, choice in point.items()
      if step.name in (self._axis(name).steps or (step.name,))
      for text in choice.statements
    ]
    late = [Said(f'SEED = {seed}', 'Sweep.seeds')] if step.seeded else []
    if step.total_steps:
      late.append(Said(f'TOTAL_STEPS = {step.total_steps}', place))
    found = self._reading([*fixed, where, *late], [said for _, said in varied])
    kept = [(name, said) for name, said in varied if said not in found.unread]
    self._heard |= {said.text for _, said in kept}
    self._unheard |= {said.text: (said, found.near[said.text]) for said in found.unread}
    # Axes come last, so that one may set the number of steps.
    statements = [*late, *(said for _, said in kept)]
    steps = self._matched(step, seed, fixed, where, statements)
    if steps is not None:
      statements.append(Said(f'TOTAL_STEPS = {steps}', 'Sweep.match'))
    full = [*fixed, where, *statements]
    resolved = dict(self._reading(full, []).resolved)
    depends = {name for name, _ in kept} | (used & {*point, 'seed'}) | ({'seed'} if step.seeded else set())
    about: list[Any] = [resolved, list(step.arguments)]
    for work in inputs.values():
      depends |= self._touched[work.signature]
    if not _named((step.dataset,)) & set(made):
      about.append(self._print(full))
      if 'DATASET_DIR' not in {said.name for _, said in kept}:
        about[0] = {name: value for name, value in resolved.items() if not name.endswith('.dataset_dir')}
    return self._finish(
      step, about, depends, point, seed,
      values=values, inputs=inputs, statements=tuple(said.text for said in statements),
      resolved=resolved, measure=functools.partial(self._size, full),
    )  # fmt: skip

  def _axis(self, name: str) -> axes.Axis:
    return next(axis for axis in self._sweep.single if axis.name == name)

  def _matched(
    self, step: Train, seed: int, fixed: list[Said], where: Said, statements: list[Said]
  ) -> int | None:
    """Steps with which the run has as many tokens or FLOPs as the baseline's; None: its own."""
    what = self._sweep.match
    if what == 'steps':
      return None
    varied = [
      Said(text, f'axis {name}')
      for name, choice in self._sweep.baseline_point().items()
      if step.name in (self._axis(name).steps or (step.name,))
      for text in choice.statements
    ]
    late = [said for said in statements if said.place in ('Sweep.seeds', f'step {step.name}')]
    unread = self._reading([*fixed, where, *late], varied).unread
    wanted = self._size([*fixed, where, *late, *(said for said in varied if said not in unread)])
    own = self._size([*fixed, where, *statements])
    per_step = {'tokens': (wanted.tokens, own.tokens), 'flops': (wanted.flops, own.flops)}[what]
    if not all(per_step):
      raise errors.ConfigError(
        f'step {step.name}: Sweep.match is flops, and there is no formula for its FLOPs'
      )
    return max(1, round(wanted.steps * per_step[0] / per_step[1]))  # type: ignore[operator] (both are there)

  def _reading(self, fixed: Sequence[Said], varied: Sequence[Said]) -> reading.Reading:
    key = (tuple(fixed), tuple(varied))
    if key not in self._read:
      self._read[key] = reading.read(fixed, varied)
    return self._read[key]

  def _size(self, said: Sequence[Said]) -> Size:
    # Seeds make no difference, and without them a size is found once for all of them.
    key = tuple(one for one in said if one.name != 'SEED')
    if key not in self._sizes:
      self._sizes[key] = reading.size(said)
    return self._sizes[key]

  def _print(self, said: Sequence[Said]) -> str:
    key = tuple(one for one in said if one.name == 'DATASET_DIR')
    if key not in self._prints:
      self._prints[key] = self._data(said)
    return self._prints[key]


def _named(given: Sequence[str]) -> set[str]:
  return {name for text in given for name in places(text)}


def _content(argument: str) -> str:
  """An argument with the hash of a small file in place of its path, so that it may lie elsewhere."""
  flag, equals, value = argument.partition('=')
  path = pathlib.Path(value or flag)
  try:
    if path.is_file() and path.stat().st_size < 2**26:
      return f'{flag if equals else ""}={hashlib.sha256(path.read_bytes()).hexdigest()}'
  except OSError:
    pass
  return argument
