"""The floors that docs/architecture.md draws: no import runs up, or between two rooms of one floor."""

import ast
import pathlib

import pytest
import small

PACKAGE = small.ROOT / 'v2meow_jax'
PAGE = small.ROOT / 'docs' / 'architecture.md'


def floors(text: str) -> list[list[str]]:
  """Rooms and files by floor, the highest first, of the page's block `floors`."""
  block = text.split('```floors\n')[1].split('```')[0]
  return [line.split() for line in block.strip().splitlines()]


def room_of(module: str) -> str:
  """The room, or the file at the top, that a module lies in; of the package itself its own name."""
  parts = module.split('.')
  return parts[1] if len(parts) > 1 else parts[0]


def imported(path: pathlib.Path, code: str) -> list[tuple[int, str]]:
  """(line, module) of this package that a file imports, wherever in the file, but not for types alone."""
  tree = ast.parse(code)
  typed = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
      typed |= {id(part) for part in ast.walk(node)}
  found = []
  for node in ast.walk(tree):
    if id(node) in typed:
      continue
    if isinstance(node, ast.Import):
      found += [(node.lineno, name.name) for name in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      assert not node.level, f'{path}: a relative import'
      for name in node.names:
        inner = node.module == 'v2meow_jax' and name.name != '__version__'
        found.append((node.lineno, f'{node.module}.{name.name}' if inner else node.module))
  return [(line, module) for line, module in found if module.partition('.')[0] == 'v2meow_jax']


def faults(code_of: dict[pathlib.Path, str], drawn: list[list[str]]) -> list[str]:
  """Imports that do not run down."""
  height = {room: number for number, rooms in enumerate(reversed(drawn)) for room in rooms}
  found = []
  for path, code in code_of.items():
    own = room_of('.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts))
    if own == '__init__':
      continue  # the public names, imported when they are asked for
    for line, module in imported(path, code):
      other = room_of(module)
      if other not in (own, 'v2meow_jax') and height[other] >= height[own]:
        found.append(f'{path.relative_to(PACKAGE)}:{line} imports {module}')
  return found


@pytest.fixture(scope='module')
def code_of():
  return {path: path.read_text() for path in sorted(PACKAGE.rglob('*.py'))}


@pytest.fixture(scope='module')
def drawn():
  return floors(PAGE.read_text())


def test_every_room_and_file_has_one_floor(drawn):
  there = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').exists()}
  there |= {path.stem for path in PACKAGE.glob('*.py')} - {'__init__'}
  named = [room for rooms in drawn for room in rooms]
  assert sorted(named) == sorted(there)


def test_imports_run_down(code_of, drawn):
  assert faults(code_of, drawn) == []


@pytest.mark.parametrize(
  ('room', 'line'),
  [
    ('bundles/bundle.py', 'from v2meow_jax.generation.pipeline import Pipeline'),
    ('models/linear.py', 'from v2meow_jax import bundles'),
    ('codec/codec.py', 'import v2meow_jax.models.linear'),
    ('training/loop.py', 'def f():\n  from v2meow_jax.codec import codec'),
    ('experiment/experiment.py', 'from v2meow_jax.commands import train'),
  ],
)
def test_an_import_that_runs_up_or_across_is_found(code_of, drawn, room, line):
  path = PACKAGE / room
  found = faults(code_of | {path: f'{code_of[path]}\n{line}\n'}, drawn)
  assert len(found) == 1 and found[0].startswith(f'{room}:')


def test_no_import_inside_a_function_is_of_this_package(code_of):
  # Lazy imports are for heavy libraries and what needs them, and for the commands, of which one is run: each
  # says why.
  allowed = {'cli.py', '__init__.py', 'app/server.py', 'models/attention.py', 'data/seqio_batches.py'}
  allowed |= {'bundles/saved_run.py', 'encoders/pulse.py'}
  found = set()
  for path, code in code_of.items():
    inner = [n for f in ast.walk(ast.parse(code)) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
    for node in inner:
      if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('v2meow_jax'):
        found.add(str(path.relative_to(PACKAGE)))
  assert found <= allowed


def circles(code_of) -> list[set[str]]:
  """Modules that import each other, directly or by others."""
  modules = {'.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts): path for path in code_of}
  modules = {name.removesuffix('.__init__'): path for name, path in modules.items()}
  edges: dict[str, set[str]] = {}
  for name, path in modules.items():
    edges[name] = set()
    for node in ast.parse(code_of[path]).body:
      if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('v2meow_jax'):
        for part in node.names:
          inner = f'{node.module}.{part.name}'
          edges[name].add(inner if inner in modules else node.module)
  reach = {name: set(to) for name, to in edges.items()}
  for _ in edges:
    grown = {name: to | {far for near in to for far in reach.get(near, ())} for name, to in reach.items()}
    if grown == reach:
      break
    reach = grown
  return [
    {name, other} for name in reach for other in reach[name] if name in reach.get(other, ()) and name <= other
  ]


def test_there_is_no_circle(code_of):
  assert circles(code_of) == []
