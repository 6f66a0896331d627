"""gin from the command line, T5X's way: `--gin_file=F`, `--gin.NAME=VALUE`, `--gin_search_paths=A,B`."""

import argparse
import contextlib
import importlib
import logging
import pathlib
import re
import tokenize
from collections.abc import Iterator, Sequence

import gin.config as gin_config

import gin
from v2meow_jax import errors
from v2meow_jax.experiment import bindings

MODULES = (
  'v2meow_jax.streams',
  'v2meow_jax.stages',
  'v2meow_jax.partitioning',
  'v2meow_jax.codec.codec',
  'v2meow_jax.codec.trainable',
  'v2meow_jax.models.trainable',
  'v2meow_jax.training.guard',
  'v2meow_jax.training.optimizers',
  'v2meow_jax.training.writers',
  'v2meow_jax.experiment.samples',
  'v2meow_jax.experiment.warm_start',
  'v2meow_jax.curation.curation',
  'v2meow_jax.curation.duplicates',
  'v2meow_jax.data.batches',
  'v2meow_jax.data.seqio_batches',
)


# What gin's parser lets through of Python's own errors.
GIN_RAISES = (
  ValueError, TypeError, SyntaxError, tokenize.TokenError, KeyError, NameError, OSError, AttributeError,
)  # fmt: skip


def gin_directory() -> pathlib.Path:
  """The shipped gin files: inside the package where it is installed, beside it in a checkout."""
  package = pathlib.Path(__file__).resolve().parents[1]
  inside = package / 'gin'
  return inside if inside.is_dir() else package.parent / 'gin'


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
  """An argument parser with gin's flags; `--gin.NAME=VALUE` is left to `parse`."""
  made = argparse.ArgumentParser(
    prog=prog,
    description=description,
    epilog='--gin.NAME=VALUE binds a parameter or macro, e.g. --gin.MODEL_DIR=\'"runs/a"\'',
    allow_abbrev=False,
  )
  made.add_argument('--gin_file', action='append', default=[], help='may be given several times')
  made.add_argument('--gin_search_paths', default='', help='comma-separated; the shipped files come last')
  return made


def parse(made: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
  """Parses the flags; `bindings` holds the gin ones."""
  given = [argument.removeprefix('--gin.') for argument in argv if argument.startswith('--gin.')]
  args = made.parse_args([argument for argument in argv if not argument.startswith('--gin.')])
  for binding in given:
    if '=' not in binding:
      raise errors.ConfigError(f'--gin.{binding}: a binding reads --gin.NAME=VALUE')
  args.bindings = given
  return args


def load(
  args: argparse.Namespace, recipe: bool = True, roots: Sequence[str] = ('train',), scoped: str = ''
) -> list[str]:
  """Imports what gin may name, then reads files and bindings.

  Args:
    args: of `parse`.
    recipe: whether there must be a file.
    roots: names of the configurables that will be called.
    scoped: name of one that will be called in every scope that binds something for it.

  Returns:
    Those scopes, in the order in which the files name them.

  Raises:
    errors.ConfigError: a missing file, an unknown name, a value that is not Python or of a wrong type, a
      binding that nothing reads.
  """
  folders = begin(args.gin_search_paths)
  if recipe and not args.gin_file:
    raise errors.ConfigError(
      'no --gin_file is given; recipes are under gin/recipes, e.g. recipes/tiny_codec.gin'
    )
  with quiet():
    with explained('the gin configuration'):
      gin.parse_config_files_and_bindings(args.gin_file, None, finalize_config=False)
    for binding in args.bindings:
      with explained(f'--gin.{binding}'):
        gin.parse_config(binding)
  # A macro that a recipe leaves to the caller; gin would hand its marker on as if it were a value.
  missing = re.findall(r'^(\w+) = %gin\.REQUIRED$', gin.config_str(), re.MULTILINE)
  if missing:
    raise errors.ConfigError(
      f'{missing[0]} is not set; add --gin.{missing[0]}=VALUE (in all: {", ".join(missing)})'
    )
  written = bindings.written(args.gin_file, args.bindings, ['', *folders], gin_directory())
  bindings.tell_overridden(written)
  found = re.compile(rf'([\w./]+)/{scoped}\.\w+')
  scopes = [match[1] for binding in written if scoped and (match := found.fullmatch(binding.name))]
  scopes = list(dict.fromkeys(scopes))
  bindings.check(written, [*roots, *(f'{scope}/{scoped}' for scope in scopes)])
  return scopes


def begin(search_paths: str = '') -> list[str]:
  """Imports what gin may name, and tells gin where files lie; those folders, in their order."""
  for module in MODULES:
    importlib.import_module(module)
  # gin also looks for gin files inside importable packages, and fails with a TypeError where the working
  # directory has a plain folder of that name, such as data/ or runs/. Files alone are wanted.
  readers = gin_config._FILE_READERS
  readers[:] = [reader for reader in readers if reader[0] is open]
  folders = [*filter(None, search_paths.split(',')), str(gin_directory())]
  for path in folders:
    if path not in gin_config._LOCATION_PREFIXES:  # gin would name it again and again
      gin.add_config_file_search_path(path)
  return folders


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Around gin's reading of files: it logs an error for each search path that a file is not in."""
  logging.disable(logging.ERROR)
  try:
    yield
  finally:
    logging.disable(logging.NOTSET)


def constructor_error(error: BaseException) -> str | None:
  """One sentence for what went wrong while gin built an argument of `train`; None for anything else.

  gin appends the configurables that were being called, innermost first: where `train` itself is not
  the first of them, one of its arguments was being made.
  """
  message, *calls = str(error).split('\n  In call to configurable ')
  if not calls or (calls[0].startswith("'train'") and 'No values supplied by Gin' not in message):
    return None
  lines = [line.strip() for line in message.splitlines() if line.strip()]
  supplied = [line for line in lines if 'No values supplied' in line]
  return (
    f'the gin configuration, {calls[0].split(" ")[0]}: {(supplied or lines or [type(error).__name__])[0]}'
  )


@contextlib.contextmanager
def built() -> Iterator[None]:
  """Around the call of a configurable: one sentence for what goes wrong while gin builds its arguments."""
  try:
    yield
  except (TypeError, ValueError, ArithmeticError) as error:
    # What goes wrong later, inside of the training, is no matter of gin's.
    told = constructor_error(error)
    if isinstance(error, errors.InputError) or told is None:
      raise
    raise errors.ConfigError(told) from error


class explained:
  """Turns gin's exceptions into `errors.ConfigError` with gin's own first line."""

  def __init__(self, what: str):
    self._what = what

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    if kind is None or issubclass(kind, errors.InputError):
      return False
    if issubclass(kind, GIN_RAISES):
      lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [kind.__name__]
      told = lines[0] if len(lines) == 1 else f'{lines[0]} ({lines[-1]})'
      raise errors.ConfigError(f'{self._what}: {told}') from error
    return False
