"""Fixtures of published networks with random weights, laid out as they are published."""

import json
import pathlib

import numpy as np
import safetensors
from safetensors.numpy import save_file

FIXTURES = pathlib.Path(__file__).parent / 'fixtures'


def read(name: str) -> tuple[dict, dict]:
  """(arrays by name, config.json) of a fixture; made by tools/make_encoder_fixtures.py."""
  with safetensors.safe_open(str(FIXTURES / f'{name}.safetensors'), 'numpy') as file:
    arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dictionary)
    return arrays, json.loads(file.metadata()['config.json'])


def weights_of(arrays: dict) -> dict:
  """The weights by their published names."""
  return {key.removeprefix('weights/'): value for key, value in arrays.items() if key.startswith('weights/')}


def lay_out(name: str, folder: pathlib.Path) -> pathlib.Path:
  """Writes a fixture's config.json and model.safetensors."""
  arrays, config = read(name)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'config.json').write_text(json.dumps(config))
  save_file(weights_of(arrays), folder / 'model.safetensors')
  return folder


# Branches of I3D's blocks as in the paper's table, which our own table is held against.
_BRANCHES = ('Branch_0/Conv3d_0a_1x1', 'Branch_1/Conv3d_0a_1x1', 'Branch_1/Conv3d_0b_3x3',
             'Branch_2/Conv3d_0a_1x1', 'Branch_2/Conv3d_0b_3x3', 'Branch_3/Conv3d_0b_1x1')  # fmt: skip


def i3d(kind: str, shrink: int, classes: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
  """A checkpoint of random weights by DeepMind's names, `RGB` or `Flow`, its channels divided by `shrink`."""
  rng = np.random.default_rng(seed)
  made = {}

  def unit(name: str, size: int, inputs: int, outputs: int) -> int:
    shape = (size, size, size, inputs, outputs)
    place = f'{kind}/inception_i3d/{name}'
    scale = 1.2 / np.sqrt(size**3 * inputs)
    made[f'{place}/conv_3d/w'] = (scale * rng.standard_normal(shape)).astype(np.float32)
    for part, low in (('beta', -0.2), ('moving_mean', -0.2), ('moving_variance', 0.5)):
      made[f'{place}/batch_norm/{part}'] = rng.uniform(low, low + 0.6, outputs).astype(np.float32)
    return outputs

  width = unit('Conv3d_1a_7x7', 7, 3 if kind == 'RGB' else 2, 64 // shrink)
  width = unit('Conv3d_2c_3x3', 3, unit('Conv3d_2b_1x1', 1, width, 64 // shrink), 192 // shrink)
  table = {
    '3b': (64, 96, 128, 16, 32, 32), '3c': (128, 128, 192, 32, 96, 64), '4b': (192, 96, 208, 16, 48, 64),
    '4c': (160, 112, 224, 24, 64, 64), '4d': (128, 128, 256, 24, 64, 64), '4e': (112, 144, 288, 32, 64, 64),
    '4f': (256, 160, 320, 32, 128, 128), '5b': (256, 160, 320, 32, 128, 128),
    '5c': (384, 192, 384, 48, 128, 128),
  }  # fmt: skip
  for block, channels in table.items():
    outputs = dict(zip(_BRANCHES, (count // shrink for count in channels), strict=True))
    for name, count in outputs.items():
      inputs = width
      if '0b_3x3' in name:
        inputs = outputs[name.replace('0b_3x3', '0a_1x1')]
      # DeepMind's own slip of the pen.
      written = name.replace('0b', '0a') if (block, name) == ('5b', _BRANCHES[4]) else name
      unit(f'Mixed_{block}/{written}', int(name[-1]), inputs, count)
    width = sum(count for name, count in outputs.items() if '0a_1x1' not in name or 'Branch_0' in name)
  place = f'{kind}/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d'
  made[f'{place}/w'] = (rng.standard_normal((1, 1, 1, width, classes)) / np.sqrt(width)).astype(np.float32)
  made[f'{place}/b'] = rng.standard_normal(classes).astype(np.float32)
  return made
