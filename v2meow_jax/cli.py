"""`v2meow COMMAND ...`: runs one entry point, imported only then, and turns bad input into one sentence."""

import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable

COMMANDS = {
  'generate': 'music for videos or texts, from a bundle',
  'serve': 'a page on which people make music for their videos',
  'prepare': 'media files to a dataset of clips x streams',
  'visualize': 'paired video for music, rendered from it',
  'fit-semantic': 'clusters for the semantic tokens, from a dataset',
  'fit-style': 'codebooks for style tokens, from a dataset',
  'train': 'a codec or a stage, configured by gin',
  'precompile': 'what a training step needs, compiled but not run',
  'plan': 'what a training step needs, estimated',
  'codec': 'encode, decode, and a report on how good a codec is',
  'evaluate': 'a bundle on a dataset: losses, entropies, reconstruction',
  'export': 'runs to one bundle',
  'bundle': 'what a bundle is, and whether it is whole',
}

# `codec` and `bundle` are parts of the library as well.
MODULES = {name: name.replace('-', '_') for name in COMMANDS}
MODULES |= {'codec': 'codec_cli', 'bundle': 'bundle_cli'}

USAGE = 'usage: v2meow COMMAND [options]; v2meow COMMAND --help says more\n\n' + '\n'.join(
  f'  {name:<14}{text}' for name, text in COMMANDS.items()
)


def run(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
  """Exit status of an entry point: 2 and one sentence on standard error where the input is at fault.

  `--debug` anywhere shows the traceback as well.
  """
  from v2meow_jax import errors

  logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax thinks aloud
  warnings.formatwarning = lambda message, *rest, **more: f'v2meow: {message}\n'
  debug = '--debug' in argv
  argv = [argument for argument in argv if argument != '--debug']
  try:
    return main(argv) or 0
  except errors.InputError as error:
    failure, message = error, first_part(error)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except OSError as error:
    where = f'{error.filename}: ' if error.filename else ''
    failure, message = error, f'{where}{error.strerror or first_part(error)}'
  except KeyboardInterrupt:
    print('v2meow: interrupted', file=sys.stderr)
    return 130
  if debug:
    traceback.print_exception(failure)
  print(f'v2meow: {" ".join(message.split())}', file=sys.stderr)
  return 2


def first_part(error: BaseException) -> str:
  """An exception's message without the trail of callers that gin appends to it."""
  return str(error).split('\n  In call to configurable')[0].strip()


def main(argv: list[str] | None = None) -> int:
  """The console command."""
  argv = sys.argv[1:] if argv is None else argv
  if not argv or argv[0] in ('-h', '--help', 'help'):
    print(USAGE)
    return 0 if argv else 2
  if argv[0] == '--version':
    from v2meow_jax import __version__

    print(__version__)
    return 0
  if argv[0] not in COMMANDS:
    print(f'v2meow: there is no command {argv[0]!r}; v2meow --help lists them', file=sys.stderr)
    return 2
  module = importlib.import_module(f'v2meow_jax.{MODULES[argv[0]]}')
  return run(module.main, argv[1:])


if __name__ == '__main__':
  sys.exit(main())
