"""A published DAC or EnCodec checkpoint to a bundle with a codec and nothing else.

    python tools/import_codec.py CHECKPOINT --out=DIR [--levels=8] [--licence='MIT']

CHECKPOINT is a folder of Hugging Face's (config.json beside model.safetensors), a .safetensors file, or the
authors' pickle; only the latter needs PyTorch, and it is read with `weights_only`. Supported: DAC at 16, 24
and 44.1 kHz, EnCodec at 24 and 32 kHz. Weights keep their own licence: DAC's are MIT, EnCodec's CC-BY-NC 4.0.
"""

import argparse
import json
import pathlib
import pickle
import sys
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from v2meow_jax import bundles, description, errors, terminal
from v2meow_jax.codec import published
from v2meow_jax.codec.codec import Codec

PICKLES = ('.pth', '.th', '.pt', '.bin', '.ckpt')


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """(arrays by name, settings by Hugging Face's names) of a checkpoint.

  Raises:
    errors.BundleError: it cannot be read.
  """
  settings: dict[str, Any] = {}
  if path.is_dir():
    found = [path / name for name in ('model.safetensors', 'pytorch_model.bin') if (path / name).is_file()]
    if not found:
      raise errors.BundleError(f'{path}: neither model.safetensors nor pytorch_model.bin is in this folder')
    path = found[0]
  about = path.parent / 'config.json'
  if about.is_file() and path.suffix not in ('.pth', '.th'):
    try:
      settings = json.loads(about.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
      raise errors.BundleError(f'{about}: not JSON ({error})') from error
  if not path.is_file():
    raise errors.BundleError(f'{path}: there is no such file')
  if path.suffix == '.safetensors':
    try:
      return load_file(path), settings
    except (SafetensorError, OSError) as error:
      raise errors.BundleError(f'{path}: not a whole safetensors file ({error})') from error
  if path.suffix not in PICKLES:
    raise errors.BundleError(f'{path}: neither a .safetensors file nor a pickle ({", ".join(PICKLES)})')
  return _unpickled(path), settings


def _unpickled(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise errors.BundleError(f'{path}: PyTorch is needed to read this file; pip install torch') from error
  try:
    found = torch.load(path, map_location='cpu', weights_only=True)
  except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
    reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
    raise errors.BundleError(f'{path}: damaged, or more than weights are in it ({reason})') from error
  # DAC's authors keep weights under `state_dict`, audiocraft under `best_state` and there under `model`.
  for name in ('state_dict', 'best_state', 'model'):
    if isinstance(found, dict) and isinstance(found.get(name), dict):
      found = found[name]
  if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
    raise errors.BundleError(f'{path}: no dictionary of weights is in it')
  return {name: value.float().numpy() for name, value in found.items()}


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('checkpoint', type=pathlib.Path)
  parser.add_argument('--out', type=pathlib.Path, required=True, help='the bundle to write; must not exist')
  parser.add_argument('--levels', type=int, help='codebooks to keep, the first ones; all by default')
  parser.add_argument('--sample_rate', type=int, help='in Hz, where the checkpoint does not say')
  parser.add_argument('--licence', default='', help='of the weights, for bundle.json')
  args = parser.parse_args(argv)
  arrays, settings = read(args.checkpoint)
  if args.sample_rate:
    settings['sampling_rate'] = args.sample_rate
  config, weights = published.convert(arrays, settings, args.levels)
  codec = Codec(config, weights)
  bundles.write(
    args.out,
    codec=bundles.Network(
      'codec', {'config': description.describe(config), 'identity': codec.identity}, weights
    ),
    stages=[],
    encoders=[],
    about={'name': args.checkpoint.name, 'licence': args.licence, 'provenance': 'tools/import_codec.py'},
  )
  rate = float(codec.stream.rate)
  print(
    f'{args.out}: {type(config.network).__name__.removesuffix("Config")} at {config.sample_rate} Hz, '
    f'{rate:g} frames a second, {codec.stream.width} levels of {codec.stream.codes} codes, '
    f'{rate * codec.stream.width * np.log2(codec.stream.codes) / 1000:.2f} kbit/s'
  )
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
