"""`v2meow fit-semantic`: clusters for the semantic tokens, from a dataset's audio."""

import argparse
import pathlib
import sys

import numpy as np

from v2meow_jax import cli, errors
from v2meow_jax.data.dataset import Dataset, read_streams, stream_of
from v2meow_jax.encoders.semantic import SemanticConfig, SemanticEncoder, features


def main(argv: list[str] | None = None) -> int:
  """Fits normalisation and k-means to the stream audio/waveform of a dataset's training split."""
  parser = argparse.ArgumentParser(prog='v2meow fit-semantic', description=main.__doc__)
  parser.add_argument('--dataset', type=pathlib.Path, required=True, help='with the stream audio/waveform')
  parser.add_argument('--out', type=pathlib.Path, required=True, help='a .safetensors file')
  parser.add_argument('--codes', type=int, default=1024, help='clusters')
  parser.add_argument(
    '--frames', type=int, default=200_000, help='frames fitted, drawn evenly from all clips'
  )
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  if args.codes < 2 or args.frames < args.codes:
    raise errors.ConfigError(f'--codes {args.codes} and --frames {args.frames}: need 2 <= codes <= frames')
  entry = read_streams(args.dataset).get('audio/waveform')
  if entry is None:
    raise errors.DatasetError(
      f'{args.dataset}: there is no stream audio/waveform; add it with v2meow prepare'
    )
  stream = stream_of(entry)
  config = SemanticConfig(sample_rate=int(stream.rate), codes=args.codes)
  data = Dataset(args.dataset, 'train', (stream,))
  rng = np.random.default_rng(args.seed)
  points = []
  for clip in range(len(data.clips)):
    found = features(config, data.read(stream, clip).mean(1) / 32768.0)
    share = -(-args.frames // len(data.clips))
    points.append(rng.permutation(found)[:share])
  encoder = SemanticEncoder.fit(config, np.concatenate(points)[: args.frames], args.seed)
  encoder.save(args.out)
  print(f'{args.out}: {args.codes} clusters of {sum(map(len, points))} frames')
  return 0


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
