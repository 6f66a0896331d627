"""`v2meow COMMAND ...`: runs one command, imported only then."""

import atexit
import gc
import importlib
import sys

COMMANDS = {
  'generate': 'music for videos or texts, from a bundle',
  'serve': 'a page on which people make music for their videos',
  'manifest': 'the manifest of a public set, or of a folder of media',
  'prepare': 'media files to a dataset of clips x streams',
  'inspect': 'what is in a dataset, and what is broken in it',
  'visualize': 'paired video for music, rendered from it',
  'fit-semantic': 'clusters for the semantic tokens, from a dataset',
  'fit-tokens': 'codes for tokens of any embedding, from a dataset',
  'fit-style': 'codebooks for style tokens, from a dataset',
  'train': 'a codec or a stage, configured by gin',
  'sweep': 'many trainings or whole pipelines, to one table',
  'precompile': 'what a training step needs, compiled but not run',
  'plan': 'what a training step needs, estimated',
  'codec': 'encode, decode, and a report on how good a codec is',
  'evaluate': 'a bundle, its music or any music, measured beside controls',
  'listen': 'a listening test as a page, and its scores',
  'export': 'runs to one bundle',
  'bundle': 'what a bundle is, and whether it is whole',
  't5x': "T5X's checkpoints: shown, made runs, and made of runs",
}

USAGE = 'usage: v2meow COMMAND [options]; v2meow COMMAND --help says more\n\n' + '\n'.join(
  f'  {name:<14}{text}' for name, text in COMMANDS.items()
)


def main(argv: list[str] | None = None) -> int:
  """The console command: exit status 2 and one sentence on standard error where the input is at fault."""
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
  # Imported now: `v2meow --help` needs no JAX.
  from v2meow_jax import terminal

  def command(arguments: list[str]) -> int | None:
    # What is imported stays. To look through it for cycles, again and again, slows a command's start and
    # takes a third of a second at its end.
    gc.disable()
    try:
      module = importlib.import_module(f'v2meow_jax.commands.{argv[0].replace("-", "_")}')
    finally:
      gc.freeze()
      gc.enable()
    atexit.register(gc.freeze)
    return module.main(arguments)

  stopped = terminal.AGAIN if argv[0] == 'train' else terminal.TERMINATED
  return terminal.run(command, argv[1:], stopped)


if __name__ == '__main__':
  sys.exit(main())
