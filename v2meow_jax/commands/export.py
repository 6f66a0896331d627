"""`v2meow export`: runs to one bundle."""

import argparse
import json

from v2meow_jax import __version__, errors, stores, terminal
from v2meow_jax.bundles import read_run
from v2meow_jax.bundles.export import export
from v2meow_jax.encoders import registry
from v2meow_jax.sampling import Sampling


def main(argv: list[str]) -> int:
  """Joins a codec's run and the stages' runs into one bundle."""
  parser = argparse.ArgumentParser(prog='v2meow export', description=main.__doc__)
  parser.add_argument('--run', type=terminal.any_path, action='append', required=True, help='once a run')
  parser.add_argument('--out', type=terminal.any_path, required=True, help='the bundle, a folder to be made')
  for entry in registry.fitted():
    parser.add_argument(f'--{entry.name}', type=terminal.local_path, help=f"fit-{entry.name}'s file")
  parser.add_argument('--name', default='', help='of the model')
  parser.add_argument('--licence', default='', help='of the weights')
  parser.add_argument('--provenance', default='', help='what it was trained on')
  parser.add_argument('--dtype', choices=('float32', 'float16'), default='float32')
  parser.add_argument(
    '--stablehlo', action='store_true', help='also programs that run without this package; docs/generation.md'
  )
  parser.add_argument(
    '--sampling',
    default='{}',
    help='JSON by stage, e.g. \'{"semantic": {"temperature": 0.95, "top_k": 100}}\'',
  )
  args = parser.parse_args(argv)
  try:
    sampling = {name: Sampling(**values) for name, values in json.loads(args.sampling).items()}
  except (json.JSONDecodeError, TypeError, AttributeError) as error:
    raise errors.ConfigError(f'--sampling: {error}') from error
  runs = [read_run(directory) for directory in args.run]
  for run in runs:
    if run.note:
      terminal.say_error(run.note)
  names = {run.about['stage']['name'] for run in runs if run.kind == 'stage'}
  if set(sampling) - names:
    raise errors.ConfigError(f'--sampling: there is no stage {", ".join(set(sampling) - names)}')
  export(
    runs,
    args.out,
    fitted={entry.name: path for entry in registry.fitted() if (path := getattr(args, entry.name))},
    sampling=sampling,
    dtype=args.dtype,
    stablehlo=args.stablehlo,
    about={
      'name': args.name or args.out.name,
      'licence': args.licence,
      'provenance': args.provenance,
      'v2meow_jax': __version__,
    },
  )
  size = sum(stores.sizes(args.out).values())
  print(f'{args.out}: {len(runs)} networks, {size / 1e6:.1f} MB')
  return 0
