"""`v2meow fit-tokens`: codes for tokens of any stream of embeddings."""

import argparse

import numpy as np

from v2meow_jax import errors, terminal
from v2meow_jax.data.dataset import Dataset, find_stream, read_streams
from v2meow_jax.encoders import codebooks
from v2meow_jax.encoders.tokens import TokenEncoder
from v2meow_jax.streams import Stream


def main(argv: list[str]) -> int:
  """Fits k-means, or a residual quantiser of several levels, to a stream of a dataset's training split."""
  parser = argparse.ArgumentParser(prog='v2meow fit-tokens', description=main.__doc__)
  parser.add_argument('--dataset', type=terminal.any_path, required=True)
  parser.add_argument('--stream', required=True, help='of embeddings, e.g. audio/w2v-bert')
  parser.add_argument('--name', required=True, help='stream of the tokens, e.g. audio/semantic')
  parser.add_argument('--out', type=terminal.local_path, required=True, help='a .safetensors file')
  parser.add_argument('--levels', type=int, default=1, help='codebooks; one is k-means')
  parser.add_argument('--codes', type=int, default=1024, help='entries of each')
  parser.add_argument('--clips', type=int, help='most that are fitted, drawn from all; all by default')
  parser.add_argument('--normalise', action='store_true', help='every dimension to mean 0 and deviation 1')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  stream = find_stream(args.dataset, args.stream)
  if stream.kind != 'embedding':
    raise errors.ConfigError(f'--stream: {stream.name} holds {stream.kind}, not embeddings')
  made = Stream(args.name, 'tokens', stream.rate, max(args.levels, 1), max(args.codes, 2))
  data = Dataset(args.dataset, 'train', (stream,))
  chosen = np.random.default_rng(args.seed).permutation(len(data.clips))[: args.clips]

  def blocks():
    return (data.read(stream, int(clip)) for clip in np.sort(chosen))

  quantizer = codebooks.fit(
    blocks,
    args.levels,
    args.codes,
    seed=args.seed,
    normalise=args.normalise,
    told=lambda line: print(line, flush=True),
  )
  identity = read_streams(args.dataset)[stream.name]['made_by']
  needs = 'video' if stream.name.startswith('video') else 'audio'
  TokenEncoder(quantizer, made, identity, needs).save(args.out)
  print(f'{args.out}: {args.levels} x {args.codes} codes of {stream.name}, from {len(chosen)} clips')
  return 0
