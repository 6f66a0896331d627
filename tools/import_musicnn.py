"""Weights of the package musicnn as a safetensors file, its licence (ISC) beside it.

    pip install --no-deps musicnn==0.1.0
    python tools/import_musicnn.py --model=MSD_musicnn --out=musicnn.safetensors

Needs TensorFlow, which reads the package's checkpoint; the package itself is not run.
"""

import argparse
import importlib.metadata
import pathlib

import numpy as np
from safetensors.numpy import save_file

from v2meow_jax.encoders import musicnn

MODELS = ('MSD_musicnn', 'MTT_musicnn')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--model', choices=MODELS, default=MODELS[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  args = parser.parse_args()
  import tensorflow as tf  # takes seconds to import

  installed = importlib.metadata.distribution('musicnn')
  # Its files have no name but their suffixes, which `load_checkpoint` takes for a folder's.
  prefix = f'{installed.locate_file("musicnn")}/{args.model}/'
  reader = tf.compat.v1.train.NewCheckpointReader(prefix)
  arrays = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
  made = {name: np.ascontiguousarray(value) for name, value in musicnn.checked(arrays).items()}
  save_file(made, args.out)
  args.out.with_suffix('.LICENCE.txt').write_text(
    f'musicnn {installed.version}, {args.model}: https://github.com/jordipons/musicnn\n\n'
    + (installed.read_text('LICENSE.md') or 'ISC License')
  )
  print(f'{args.out}: {len(made)} arrays')


if __name__ == '__main__':
  main()
