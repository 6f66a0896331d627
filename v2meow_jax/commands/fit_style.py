"""`v2meow fit-style`: codebooks for style tokens, from a dataset's style vectors."""

import argparse

import numpy as np

from v2meow_jax import terminal
from v2meow_jax.data.dataset import Dataset, find_stream, read_streams
from v2meow_jax.encoders import fitting, registry

SOURCE = 'style/clap'


def main(argv: list[str]) -> int:
  """Fits a residual quantiser to the stream style/clap of a dataset's training split."""
  parser = argparse.ArgumentParser(prog='v2meow fit-style', description=main.__doc__)
  parser.add_argument('--dataset', type=terminal.any_path, required=True, help=f'with the stream {SOURCE}')
  parser.add_argument('--out', type=terminal.local_path, required=True, help='a .safetensors file')
  parser.add_argument(
    '--clap', help='folder or id of the CLAP model, where not the one that the dataset names'
  )
  parser.add_argument('--levels', type=int, default=12, help='codebooks')
  parser.add_argument('--codes', type=int, default=1024, help='entries of each')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  stream = find_stream(args.dataset, SOURCE)
  data = Dataset(args.dataset, 'train', (stream,))
  vectors = np.concatenate([data.read(stream, clip) for clip in range(len(data.clips))])
  networks = {'clap': args.clap} if args.clap else {}
  embedder = registry.build(read_streams(args.dataset)[SOURCE]['made_by'], args.dataset, networks)
  tokens = fitting.fit_style(embedder, vectors, args.levels, args.codes, args.seed)  # type: ignore[arg-type] (CLAP's)
  tokens.save(args.out)
  print(f'{args.out}: {args.levels} levels of {args.codes} codes from {len(vectors)} clips')
  return 0
