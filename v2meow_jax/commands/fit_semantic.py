"""`v2meow fit-semantic`: clusters for the semantic tokens, from a dataset's audio."""

import argparse

from v2meow_jax import terminal
from v2meow_jax.data.dataset import Dataset, find_stream
from v2meow_jax.encoders import fitting
from v2meow_jax.encoders.semantic import SemanticConfig


def main(argv: list[str]) -> int:
  """Fits normalisation and k-means to the stream audio/waveform of a dataset's training split."""
  parser = argparse.ArgumentParser(prog='v2meow fit-semantic', description=main.__doc__)
  parser.add_argument(
    '--dataset', type=terminal.any_path, required=True, help='with the stream audio/waveform'
  )
  parser.add_argument('--out', type=terminal.local_path, required=True, help='a .safetensors file')
  parser.add_argument('--codes', type=int, default=1024, help='clusters')
  parser.add_argument(
    '--frames', type=int, default=200_000, help='frames fitted, drawn evenly from all clips'
  )
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  stream = find_stream(args.dataset, 'audio/waveform')
  data = Dataset(args.dataset, 'train', (stream,))
  count = len(data.clips)
  config = SemanticConfig(sample_rate=int(stream.rate), codes=args.codes)

  def read(clip: int):
    return data.read(stream, clip).mean(1) / 32768.0

  encoder, frames = fitting.fit_semantic(config, read, count, args.frames, args.seed)
  encoder.save(args.out)
  print(f'{args.out}: {args.codes} clusters of {frames} frames')
  return 0
