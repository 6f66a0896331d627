"""`v2meow bundle info|verify`: what a bundle is, and whether it is whole."""

import argparse
import json

from v2meow_jax import bundles, errors, terminal
from v2meow_jax.bundles.faults import faults
from v2meow_jax.bundles.summary import tell


def main(argv: list[str]) -> int:
  """Tells what is in a bundle, or checks it."""
  parser = argparse.ArgumentParser(prog='v2meow bundle', description=main.__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  info = commands.add_parser('info', help='stages, codec, encoders, licence, provenance')
  info.add_argument('bundle', type=terminal.any_path)
  info.add_argument('--json', action='store_true', help='bundle.json as it is')
  verify = commands.add_parser(
    'verify', help='hashes, shapes, licence and provenance; exit status 2 on a fault'
  )
  verify.add_argument('bundle', type=terminal.any_path)
  args = parser.parse_args(argv)
  loaded = bundles.load(args.bundle)
  if args.command == 'verify':
    _verify(loaded)
  elif args.json:
    print(json.dumps(loaded.about, indent=2))
  else:
    print('\n'.join(tell(loaded)))
  return 0


def _verify(loaded: bundles.Bundle) -> None:
  """Opening it has compared the hashes; what is left are shapes, values and words."""
  found = faults(loaded)
  if found:
    raise errors.BundleError(f'{loaded.directory}: {"; ".join(found)}')
  print(f'{loaded.directory}: {len(loaded.parts())} files with the right hashes, shapes and finite values')
  for name in ('licence', 'provenance'):
    if not loaded.about.get(name):
      print(f'note: it has no {name}')
