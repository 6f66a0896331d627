"""`v2meow t5x show|import|export`: T5X's checkpoints, without T5X."""

import argparse

import numpy as np
from etils import epath

from v2meow_jax import errors, terminal
from v2meow_jax.experiment import configuration, experiment
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.t5x import checkpoint, exporting, importing, matching


def main(argv: list[str]) -> int:
  """Shows a T5X checkpoint, makes a run of one, or makes one of a run."""
  parser = argparse.ArgumentParser(prog='v2meow t5x', description=main.__doc__)
  parser.add_argument('way', choices=('show', 'import', 'export'), help='each has a --help of its own')
  way = parser.parse_args(argv[:1]).way
  return {'show': _show, 'import': _import, 'export': _export}[way](argv[1:])


def _add_summed(parser: argparse.ArgumentParser, default: str) -> None:
  parser.add_argument(
    '--summed_tokens',
    type=_positive,
    metavar='TOKENS',
    help=f"that T5X's loss is summed over, by whose square Adafactor's moments differ; {default}",
  )


def _positive(text: str) -> float:
  value = terminal.number(text)
  if value <= 0:
    raise argparse.ArgumentTypeError(f'{text} is not a positive number')
  return value


def _count(text: str) -> int:
  value = terminal.number(text)
  if value < 0 or value != int(value):
    raise argparse.ArgumentTypeError(f'{text} is not a whole number from 0 on')
  return int(value)


def _show(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(
    prog='v2meow t5x show', description="a checkpoint's arrays and their sizes"
  )
  parser.add_argument('checkpoint', type=epath.Path, help='a folder checkpoint_STEP, or a model_dir')
  args = parser.parse_args(argv)
  found = checkpoint.read(args.checkpoint)
  print(f'{found.directory}: {found.format}, step {found.step}')
  for name, array in sorted(found.arrays.items()):
    print(f'{array.dtype.name:<9} {"x".join(map(str, array.shape)) or "-":<16} {array.size:>12,}  {name}')
  for part in sorted({name.split('/')[0] for name in found.arrays}):
    arrays = found.part(part).values()
    count = sum(int(np.prod(array.shape)) for array in arrays)
    print(f'{part}: {len(arrays)} arrays, {count:,} numbers, {sum(a.size for a in arrays):,} bytes')
  return 0


def _import(argv: list[str]) -> int:
  parser = configuration.parser('v2meow t5x import', 'makes a run of a checkpoint; a recipe says of what')
  parser.add_argument('checkpoint', type=epath.Path, help='a folder checkpoint_STEP, or a model_dir')
  parser.add_argument('--out', type=terminal.local_path, required=True, help='the run, a folder to be made')
  parser.add_argument(
    '--rule',
    action='append',
    default=[],
    metavar='PATTERN=NAME',
    help='what arrays of ours are called in the checkpoint (\\1: the first group); PATTERN=: they are new',
  )
  parser.add_argument('--partial', action='store_true', help='make anew what is not there or does not fit')
  parser.add_argument('--cast', action='store_true', help='allow parameters of several types')
  parser.add_argument(
    '--mlp_activations',
    type=lambda text: tuple(text.split(',')),
    help="of T5X's decoder-only network, such as gelu,linear; by default as config.gin beside it says",
  )
  parser.add_argument(
    '--token_offset', type=_count, default=0, help="of T5X's decoder-only network: the token that is code 0"
  )
  _add_summed(parser, "by default as T5X's config.gin says")
  args = configuration.parse(parser, argv)
  source = checkpoint.read(args.checkpoint)
  options = importing.Options(
    matching.parse_rules(args.rule),
    args.partial,
    args.mlp_activations,
    args.token_offset,
    args.cast,
    args.summed_tokens,
  )

  def work(trainable, batches, partitioner, guard):
    del partitioner
    if not isinstance(trainable, StageTrainable):
      raise errors.ConfigError('only a stage can be made of a T5X checkpoint; give the recipe of one')
    print('\n'.join(importing.import_run(source, trainable, batches, guard, args.out, options)))

  experiment.inspect(args, work)
  return 0


def _export(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(prog='v2meow t5x export', description="a run of a stage, in T5X's format")
  parser.add_argument('run', type=epath.Path, help="a stage's run")
  parser.add_argument('--out', type=terminal.local_path, required=True, help='a model_dir of T5X')
  _add_summed(parser, 'by default 1, a mean')
  parser.add_argument(
    '--decoder_only', action='store_true', help="as T5X's own decoder-only network, where the stage is one"
  )
  parser.add_argument(
    '--token_offset',
    type=_count,
    metavar='TOKEN',
    help="with --decoder_only, the token that is to be code 0; those before it are T5X's own",
  )
  args = parser.parse_args(argv)
  if args.decoder_only:
    if args.summed_tokens is not None:
      parser.error('--summed_tokens scales what Adafactor keeps, which --decoder_only leaves behind')
    path, notes = exporting.export_decoder_only(args.run, args.out, args.token_offset or 0)
  else:
    if args.token_offset is not None:
      parser.error('--token_offset is for --decoder_only')
    path, notes = exporting.export(args.run, args.out, args.summed_tokens or 1.0)
  for note in notes:
    terminal.say(f'note: {note}')
  found = checkpoint.read(path)
  print(f'{path}: {len(found.arrays)} arrays, {sum(array.size for array in found.arrays.values()):,} bytes')
  return 0
