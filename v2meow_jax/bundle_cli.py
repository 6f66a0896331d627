"""`v2meow bundle info|verify`: what a bundle is, and whether it is whole."""

import argparse
import json
import math
import pathlib
import sys

from v2meow_jax import bundle, cli, description, errors
from v2meow_jax.stages import Stage
from v2meow_jax.streams import Stream


def main(argv: list[str] | None = None) -> int:
  """Tells what is in a bundle, or checks it."""
  parser = argparse.ArgumentParser(prog='v2meow bundle', description=main.__doc__)
  commands = parser.add_subparsers(dest='command', required=True)
  info = commands.add_parser('info', help='stages, codec, encoders, licence, provenance')
  info.add_argument('bundle', type=pathlib.Path)
  info.add_argument('--json', action='store_true', help='bundle.json as it is')
  verify = commands.add_parser(
    'verify', help='hashes, shapes, licence and provenance; exit status 2 on a fault'
  )
  verify.add_argument('bundle', type=pathlib.Path)
  args = parser.parse_args(argv)
  loaded = bundle.load(args.bundle)
  if args.command == 'verify':
    return _verify(loaded)
  if args.json:
    print(json.dumps(loaded.about, indent=2))
  else:
    print('\n'.join(tell(loaded)))
  return 0


def tell(loaded: bundle.Bundle) -> list[str]:
  """Lines for a person."""
  about = loaded.about
  lines = [f'{about.get("name") or loaded.directory.name}: format {about["format"]}']
  for name in ('licence', 'provenance', 'v2meow_jax'):
    lines.append(f'  {name}: {about.get(name) or "not said"}')
  codec = loaded.codec()
  lines.append(
    f'codec: {type(codec.config.network).__name__.removesuffix("Config")}, {codec.sample_rate} Hz, '
    f'{codec.channels} channel{"s" * (codec.channels > 1)}, {_stream(codec.stream)}, '
    f'{codec.stream.bits_per_second() / 1000:.2f} kbit/s'
  )
  for part in about['stages']:
    stage: Stage = description.rebuild(part['stage'], bundle.TYPES)
    count = sum(math.prod(shape) for shape in loaded.sizes(part).values())
    config = part['transformer']
    lines.append(
      f'stage {stage.name}: {config["layers"]} layers of {config["width"]}, '
      f'{count / 1e6:.1f} million parameters, '
      f'{part.get("trained_steps", "?")} steps, crops of {float(stage.crop_seconds):g} s'
    )
    start, stop = stage.target.span
    lines.append(
      f'  predicts {_stream(stage.target.stream)}, levels {start} to {stop - 1}, {stage.target.pattern}'
    )
    for condition in stage.conditions:
      dropped = f'left out {condition.dropout:.0%} of the time' if condition.dropout else 'always there'
      lines.append(f'  given {_stream(condition.stream)}, {dropped} in training')
    chosen = {key: value for key, value in part['sampling'].items() if key not in ('type', 'suppress')}
    lines.append('  sampling: ' + ', '.join(f'{key} {value}' for key, value in chosen.items()))
  for identity in about['encoders']:
    weights = f', weights {identity["sha256"][:12]}' if 'sha256' in identity else ''
    lines.append(f'encoder {identity["encoder"]} {identity.get("model", "")}{weights}')
  if about.get('semantic'):
    lines.append(f'semantic encoder: {_stream(loaded.semantic().stream)}')
  size = sum(path.stat().length for path in loaded.directory.iterdir())
  lines.append(f'{len(loaded.parts()) + 1} files, {size / 1e6:.1f} MB')
  return lines


def _stream(stream: Stream) -> str:
  kind = f'{stream.width} x {stream.codes}' if stream.kind == 'tokens' else f'{stream.width} dimensions'
  return f'{stream.name} ({kind}, {float(stream.rate):g} Hz)'


def _verify(loaded: bundle.Bundle) -> int:
  """Opening it has compared the hashes; what is left are shapes, values and words."""
  faults = loaded.faults()
  if faults:
    raise errors.BundleError(f'{loaded.directory}: {"; ".join(faults)}')
  print(f'{loaded.directory}: {len(loaded.parts())} files with the right hashes, shapes and finite values')
  for name in ('licence', 'provenance'):
    if not loaded.about.get(name):
      print(f'note: it has no {name}')
  return 0


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
