"""A frozen network as StableHLO and weights: it then runs without PyTorch, and without the code that made it.

    python tools/export_encoder.py --gin_file=encoders/clip.gin --gin.CLIP='"FOLDER"' --out=clip
    v2meow prepare --gin_file=encoders/exported.gin --gin.EXPORTED='"clip"' --out=DIR

The folder holds `encoder.json` (what is read, windows, the stream), `encoder.stablehlo` (for cpu, cuda and
tpu) and `weights.safetensors`. It stands in for the network's own folder, in `generate` as well.
Networks of transformers go through torchax (`--gin.SCOPE/TransformersNetwork.backend='"torchax"'`); those
whose features are made on the host (w2v-BERT, optical flow) are refused.
"""

import sys

import gin
from v2meow_jax import errors, terminal
from v2meow_jax.encoders import exported, registry  # noqa: F401 (gin's names are the registry's)
from v2meow_jax.encoders.configured import configured, prepared
from v2meow_jax.encoders.driver import NetworkEncoder
from v2meow_jax.experiment import configuration


def main(argv: list[str]) -> int:
  parser = configuration.parser('export_encoder', __doc__.splitlines()[0])
  parser.add_argument('--out', required=True, help='folder to be made')
  args = configuration.parse(parser, argv)
  (scope,) = configuration.load(args, roots=(), scoped='prepared')
  with configuration.built(), gin.config_scope(scope):
    encoder = configured(prepared)
  if not isinstance(encoder, NetworkEncoder):
    raise errors.ConfigError('what is named is no network')
  size = exported.write(encoder.network, encoder.identity, args.out, encoder.batch)
  print(f'{args.out}: {encoder.stream.name}, {size / 1e6:.1f} MB')
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
