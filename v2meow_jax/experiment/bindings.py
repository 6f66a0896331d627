"""What people bind by gin, held against what reads it: nothing that is misspelt or of a wrong type passes."""

import ast
import contextlib
import dataclasses
import difflib
import inspect
import pathlib
import re
import typing
import warnings
from collections.abc import Iterable, Sequence

import gin
from v2meow_jax import description, errors

_STATEMENT = re.compile(r'([\w./]+)\s*=\s*(.*)')
_INCLUDE = re.compile(r'include\s+[\'"](.+)[\'"]')
_REFERENCE = re.compile(r'@([\w./]+)|%([\w.]+)')


@dataclasses.dataclass(frozen=True)
class Binding:
  """A statement of a gin file or of the command line.

  Attributes:
    name: what is bound.
    value: as it is written.
    place: where.
    own: whether its writer is the user, and not this package.
    late: whether it stands on the command line.
  """

  name: str
  value: str
  place: str
  own: bool
  late: bool = False


def written(
  files: Iterable[str], flags: Iterable[str], folders: Sequence[str], shipped: pathlib.Path
) -> list[Binding]:
  """All statements in the order in which they take effect.

  Args:
    files: gin files, as on the command line.
    flags: NAME=VALUE.
    folders: that files are looked for in, in order.
    shipped: folder of this package's own.
  """
  found: list[Binding] = []

  def read(name: str) -> None:
    places = (pathlib.Path(folder, name) for folder in folders)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
      return  # gin has its own words for that
    own = not path.resolve().is_relative_to(shipped.resolve())
    for number, line in enumerate(path.read_text().splitlines(), 1):
      if match := _INCLUDE.match(line):
        read(match[1])
      elif match := _STATEMENT.match(line):
        found.append(Binding(match[1], match[2], f'{name}, line {number}', own))

  for name in files:
    read(name)
  for flag in flags:
    name, _, value = flag.partition('=')
    found.append(Binding(name.strip(), value.strip(), f'--gin.{flag}', True, late=True))
  return found


def tell_overridden(bindings: Sequence[Binding]) -> None:
  """Warns where a statement in a file of the user gives way to a later one in a file."""
  last = {binding.name: binding for binding in bindings}
  for binding in bindings:
    final = last[binding.name]
    if binding.own and not final.late and binding.value != final.value:
      warnings.warn(
        f'{binding.place}: {binding.name} = {binding.value} gives way to {final.value} of {final.place}; '
        'name that file first',
        stacklevel=2,
      )


class Graph:
  """What is reached of the configuration that gin has read, from what is called.

  Args:
    roots: names of configurables that are called, `SCOPE/NAME` of those that are called in one.
  """

  def __init__(self, roots: Iterable[str]):
    self._values = {_key(name): value for name, value in statements(gin.config_str()).items()}
    self.macros: set[str] = set()
    self.scopes: set[str] = {''}
    self.reached: set[str] = set()
    waiting = self._referred(' '.join(f'@{root}' for root in roots))
    while waiting:
      name = waiting.pop()
      if name in self.reached:
        continue
      self.reached.add(name)
      for (_, selector, _), value in self._values.items():
        if selector == name:
          waiting += self._referred(value)

  def _referred(self, value: str) -> list[str]:
    found = []
    for reference, macro in _REFERENCE.findall(value):
      if macro and macro not in self.macros:
        self.macros.add(macro)
        found += self._referred(self._values.get(('', 'macro', macro), ''))
      elif reference:
        *scopes, name = reference.split('/')
        self.scopes |= {'/'.join(scopes[: n + 1]) for n in range(len(scopes))}
        found.append(name.split('.')[-1])
    return found

  def reads(self, name: str) -> bool:
    """Whether what is bound under this name is read."""
    scope, selector, parameter = _key(name)
    if selector == 'macro':
      return parameter in self.macros
    return selector in self.reached and scope in self.scopes

  def names(self) -> list[str]:
    """Names that are bound and read."""
    bound = [
      parameter if selector == 'macro' else f'{scope}/{selector}.{parameter}'.lstrip('/')
      for scope, selector, parameter in self._values
    ]
    return [name for name in bound if self.reads(name)]

  def literals(self) -> list[tuple[str, str, str, str]]:
    """(selector, parameter, name that the value is bound to, value as written) of all that is read."""
    found = []
    for (scope, selector, parameter), value in self._values.items():
      name = f'{scope}/{selector}.{parameter}'.lstrip('/')
      if selector == 'macro' or not self.reads(name):
        continue
      while (match := re.fullmatch(r'%([\w.]+)', value)) and ('', 'macro', match[1]) in self._values:
        name, value = match[1], self._values['', 'macro', match[1]]
      found.append((selector, parameter, name, value))
    return found

  def resolved(self) -> dict[str, str]:
    """What is read, without names of macros: scope/selector.parameter -> value, in one way of writing it.

    A value that is the parameter's default is left out, so that saying it makes no difference.
    """
    found = {}
    for (scope, selector, parameter), value in self._values.items():
      name = f'{scope}/{selector}.{parameter}'.lstrip('/')
      if selector == 'macro' or not self.reads(name):
        continue
      text = self._without_macros(value)
      with contextlib.suppress(ValueError, SyntaxError):  # it holds references
        given = ast.literal_eval(text)
        if (type(given), given) == _default(selector, parameter):
          continue
        text = repr(given)
      found[name] = text
    return found

  def _without_macros(self, value: str) -> str:
    def inner(match: re.Match) -> str:
      held = self._values.get(('', 'macro', match[1]))
      return match[0] if held is None else self._without_macros(held)

    return re.sub(r'%([\w.]+)', inner, value)


def _default(selector: str, parameter: str) -> tuple[type, typing.Any] | None:
  """(type, value) of a parameter's default; None where there is none."""
  taken = parameters(selector)
  return (type(taken[parameter].default), taken[parameter].default) if parameter in taken else None


def parameters(selector: str) -> dict[str, inspect.Parameter]:
  """What a configurable takes; nothing where there is none of this name."""
  try:
    made = inspect.unwrap(gin.get_configurable(selector))
    # Of a class gin makes another one, whose constructor alone tells what it takes.
    return dict(inspect.signature(made.__init__ if isinstance(made, type) else made).parameters)
  except (ValueError, TypeError):
    return {}


def check(bindings: Sequence[Binding], roots: Iterable[str]) -> None:
  """Refuses what is bound and not read, and values of a wrong type.

  Args:
    bindings: of `written`.
    roots: names of configurables that are called, with their scopes.

  Raises:
    errors.ConfigError: a binding of the user that nothing reads, with the nearest names; or a value that is
      not of the type that its parameter is annotated with.
  """
  graph = Graph(roots)
  places = {binding.name: binding for binding in bindings}
  for binding in places.values():
    if binding.own and not graph.reads(binding.name):
      near = difflib.get_close_matches(binding.name, graph.names(), 3, 0.6)
      told = f'; near it are {", ".join(near)}' if near else ''
      raise errors.ConfigError(f'{binding.place}: nothing reads {binding.name} here{told}')
  for selector, parameter, name, value in graph.literals():
    place = places[name].place if name in places else name
    if re.fullmatch(r'@[\w./]+', value):
      raise errors.ConfigError(f'{place}: {value} is what makes it, and not what is made; write {value}()')
    wanted = _annotation(selector, parameter)
    try:
      given = ast.literal_eval(value)
    except (ValueError, SyntaxError):
      continue  # it holds references
    if wanted is not None and not description.holds(given, wanted):
      kind = getattr(wanted, '__name__', None) if isinstance(wanted, type) else None
      raise errors.ConfigError(f'{place}: {selector}.{parameter} takes {kind or wanted}, not {value}')


def _key(name: str) -> tuple[str, str, str]:
  """(scope, configurable, parameter); of a macro ('', 'macro', its name)."""
  scope, _, rest = name.rpartition('/')
  if rest == 'gin.macro.value':
    return '', 'macro', scope
  parts = rest.split('.')
  return ('', 'macro', name) if len(parts) == 1 else (scope, parts[-2], parts[-1])


def statements(text: str) -> dict[str, str]:
  """Bindings of a configuration as gin writes it: name -> value, on one line."""
  found: dict[str, str] = {}
  name = None
  for line in text.splitlines():
    if line.startswith('#') or not line.strip():
      name = None
    elif match := _STATEMENT.fullmatch(line):
      name = match[1]
      found[name] = match[2].removesuffix('\\').strip()
    elif name is not None:
      found[name] = f'{found[name]} {line.removesuffix(chr(92)).strip()}'.strip()
  return found


def _annotation(selector: str, parameter: str) -> typing.Any:
  """The type that a parameter is annotated with, where it is one that gin's literals can have."""
  try:
    made = inspect.unwrap(gin.get_configurable(selector))
  except ValueError:
    return None
  try:
    holder = made if dataclasses.is_dataclass(made) or not isinstance(made, type) else made.__init__
    wanted = typing.get_type_hints(holder).get(parameter)
  except (NameError, TypeError):
    return None
  return wanted if wanted is not None and description.is_plain(wanted) else None
