"""What varies in a sweep, and which combinations of it there are."""

import ast
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
from v2meow_jax import errors

# What a constraint may be made of: names of axes, literals, comparisons, and arithmetic.
_ALLOWED = (
  ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Add, ast.Sub,
  ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
  ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.IfExp,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Choice:
  """A place on an axis.

  Attributes:
    label: in names of folders and in tables.
    value: what constraints compare and `{AXIS}` stands for.
    statements: of gin.
  """

  label: str
  value: Any
  statements: tuple[str, ...] = ()


Point = dict[str, Choice]  # by the axis's name


@gin.register
@dataclasses.dataclass(frozen=True)
class Axis:
  """Something that varies: a parameter and its values, or named groups of gin statements.

  Attributes:
    name: by default the scope that it is made in, `layers` for `@layers/Axis()`.
    parameter: of gin, such as `TransformerConfig.layers`; empty where only `{NAME}` in the arguments of steps
      or `when` look at the axis.
    values: of the parameter: what gin writes literally.
    settings: label -> a gin statement or several, in place of parameter and values; `include` is one.
    steps: names of the training steps that it is for; by default all that read what it sets.
  """

  name: str = ''
  parameter: str = ''
  values: tuple[Any, ...] = ()
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  steps: tuple[str, ...] = ()

  def __post_init__(self):
    object.__setattr__(self, 'name', self.name or scope_name('Axis'))
    if not self.name.isidentifier():
      raise errors.ConfigError(f'axis {self.name!r}: a name is made of letters, digits and _')
    if bool(self.settings) == bool(self.values) or (self.settings and self.parameter):
      raise errors.ConfigError(f'axis {self.name}: give either values (and a parameter) or settings')

  @property
  def axes(self) -> tuple['Axis', ...]:
    """Itself: it moves alone."""
    return (self,)

  @property
  def choices(self) -> tuple[Choice, ...]:
    """Its places, in order; the first is the baseline's unless the sweep says otherwise."""
    if self.settings:
      return tuple(Choice(str(label), str(label), texts(given)) for label, given in self.settings.items())
    written = (f'{self.parameter} = {value!r}' for value in self.values)
    return tuple(
      Choice(_label(value), value, (text,) if self.parameter else ())
      for value, text in zip(self.values, written, strict=True)
    )


@gin.register
@dataclasses.dataclass(frozen=True)
class Zip:
  """Axes that move together: the first choice of each, then the second, and so on."""

  axes: tuple[Axis, ...]

  def __post_init__(self):
    counts = {axis.name: len(axis.choices) for axis in self.axes}
    if len(set(counts.values())) != 1:
      told = ', '.join(f'{name} has {count}' for name, count in counts.items())
      raise errors.ConfigError(f'zipped axes need as many choices each: {told}')


def scope_name(kind: str) -> str:
  """The scope that gin makes a configurable in, for what is named by it."""
  scope = gin.current_scope()
  if not scope:
    raise errors.ConfigError(f'{kind} has no name: write @NAME/{kind}(), or bind {kind}.name')
  return scope[-1]


def texts(given: Any) -> tuple[str, ...]:
  """One text or several, as several."""
  return (given,) if isinstance(given, str) else tuple(given)


def _label(value: Any) -> str:
  if isinstance(value, tuple | list):
    return '-'.join(map(_label, value))
  return f'{value:g}' if isinstance(value, float) else str(value)


def points(
  axes: Sequence[Axis | Zip], exclude: Sequence[Mapping[str, Any]] = (), require: Sequence[str] = ()
) -> list[Point]:
  """All combinations, the last axis moving fastest, less those that are excluded or break a constraint.

  Args:
    axes: in order.
    exclude: axis -> value: combinations that have all of these.
    require: expressions over the axes' names, such as `width % heads == 0`, that must hold.

  Raises:
    errors.ConfigError: two axes of one name, an unknown name or value in a constraint, or nothing is left.
  """
  single = [axis for group in axes for axis in group.axes]
  names = [axis.name for axis in single]
  twice = next((name for name in names if names.count(name) > 1), None)
  if twice is not None:
    raise errors.ConfigError(f'two axes are called {twice}')
  for given in exclude:
    for name, value in given.items():
      find_choice(single, name, value)
  rules = [(text, _compiled(text, names)) for text in require]
  rows = [list(zip(*(axis.choices for axis in group.axes), strict=True)) for group in axes]
  for group, choices in zip(axes, rows, strict=True):
    told = [' '.join(choice.label for choice in combined) for combined in choices]
    again = next((text for text in told if told.count(text) > 1), None)
    if again is not None:
      raise errors.ConfigError(f'axis {"+".join(axis.name for axis in group.axes)}: {again} is there twice')
  found = []
  for combination in itertools.product(*rows):
    point: Point = dict(zip(names, itertools.chain(*combination), strict=True))
    left_out = any(all(_is(point[n], value) for n, value in given.items()) for given in exclude)
    if not left_out and all(_holds(text, rule, point) for text, rule in rules):
      found.append(point)
  if not found:
    raise errors.ConfigError('no combination is left by the exclusions and constraints')
  return found


def find_choice(axes: Sequence[Axis], name: str, value: Any) -> Choice:
  """The choice of an axis by its value or label.

  Raises:
    errors.ConfigError: there is no such axis, or no such choice of it.
  """
  axis = next((axis for axis in axes if axis.name == name), None)
  if axis is None:
    raise errors.ConfigError(f'there is no axis {name}; there are {", ".join(axis.name for axis in axes)}')
  choice = next((choice for choice in axis.choices if _is(choice, value)), None)
  if choice is None:
    labels = ', '.join(choice.label for choice in axis.choices)
    raise errors.ConfigError(f'axis {name} has no {value!r}; it has {labels}')
  return choice


def _is(choice: Choice, value: Any) -> bool:
  return choice.value == value or choice.label == value


def _compiled(text: str, names: Sequence[str]) -> Any:
  try:
    tree = ast.parse(text, mode='eval')
  except SyntaxError as error:
    raise errors.ConfigError(f'constraint {text!r}: {error.msg}') from error
  for node in ast.walk(tree):
    if not isinstance(node, _ALLOWED):
      raise errors.ConfigError(f'constraint {text!r}: {type(node).__name__} may not stand in one')
    if isinstance(node, ast.Name) and node.id not in names:
      raise errors.ConfigError(
        f'constraint {text!r}: there is no axis {node.id}; there are {", ".join(names)}'
      )
  return compile(tree, text, 'eval')


def _holds(text: str, rule: Any, point: Point) -> bool:
  try:
    return bool(eval(rule, {'__builtins__': {}}, {name: choice.value for name, choice in point.items()}))
  except (TypeError, ZeroDivisionError) as error:
    raise errors.ConfigError(f'constraint {text!r}: {error}') from error


def labels(point: Point) -> Iterator[str]:
  """`layers=2` and so on."""
  return (f'{name}={choice.label}' for name, choice in point.items())
