"""`v2meow evaluate`: a bundle on a dataset: losses, entropies, conditions, reconstruction."""

import argparse
import json

from v2meow_jax import bundles, files, terminal
from v2meow_jax.evaluation import bundle_report


def main(argv: list[str]) -> int:
  """Measures a bundle's stages and codec on a dataset's validation split, in nats a token."""
  parser = argparse.ArgumentParser(prog='v2meow evaluate', description=main.__doc__)
  parser.add_argument('--bundle', type=terminal.local_path, required=True)
  parser.add_argument('--dataset', type=terminal.local_path, required=True)
  parser.add_argument('--out', type=terminal.local_path, help='a JSON file for the figures')
  parser.add_argument(
    '--dtype', choices=('float32', 'bfloat16'), default='float32',
    help='of the stages; bfloat16 is compared with float32 as well',
  )  # fmt: skip
  parser.add_argument('--crops', type=int, default=64, help='crops a stage is measured on')
  parser.add_argument('--clips', type=int, default=32, help='clips that the codec is measured on')
  parser.add_argument('--seed', type=int, default=0, help='of the choice of crops')
  args = parser.parse_args(argv)
  report = bundle_report.measure(
    bundles.load(args.bundle), args.dataset,
    crops=args.crops, clips=args.clips, dtype=args.dtype, seed=args.seed,
  )  # fmt: skip
  if 'codec' not in report:
    terminal.say(f'{args.dataset}: no stream audio/waveform, so the codec is not measured')
  print('\n'.join(bundle_report.tell(report)))
  if args.out:
    files.write_text(args.out, json.dumps(report, indent=2) + '\n')
  return 0
