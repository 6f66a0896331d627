"""`v2meow fit-style`: codebooks for style tokens, from a dataset's style vectors."""

import argparse
import pathlib
import sys

import numpy as np

from v2meow_jax import cli, errors
from v2meow_jax.data.dataset import Dataset, read_streams, stream_of
from v2meow_jax.encoders import registry, style

SOURCE = 'style/clap'


def main(argv: list[str] | None = None) -> int:
  """Fits a residual quantiser to the stream style/clap of a dataset's training split."""
  parser = argparse.ArgumentParser(prog='v2meow fit-style', description=main.__doc__)
  parser.add_argument('--dataset', type=pathlib.Path, required=True, help=f'with the stream {SOURCE}')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='a .safetensors file')
  parser.add_argument(
    '--clap', help='folder or id of the CLAP model, where not the one that the dataset names'
  )
  parser.add_argument('--levels', type=int, default=12, help='codebooks')
  parser.add_argument('--codes', type=int, default=1024, help='entries of each')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  if args.levels < 1 or args.codes < 2:
    raise errors.ConfigError(f'--levels {args.levels} and --codes {args.codes}: need levels >= 1, codes >= 2')
  entry = read_streams(args.dataset).get(SOURCE)
  if entry is None:
    raise errors.DatasetError(f'{args.dataset}: there is no stream {SOURCE}; add it with v2meow prepare')
  stream = stream_of(entry)
  data = Dataset(args.dataset, 'train', (stream,))
  vectors = np.concatenate([data.read(stream, clip) for clip in range(len(data.clips))])
  embedder = registry.build(entry['made_by'], args.dataset, args.clap)
  made = style.StyleTokens(embedder, style.fit(vectors, args.levels, args.codes, args.seed))  # type: ignore[arg-type] (CLAP's)
  made.save(args.out)
  print(f'{args.out}: {args.levels} levels of {args.codes} codes from {len(vectors)} clips')
  return 0


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
