"""Fixtures of published networks with random weights, laid out as they are published."""

import json
import pathlib

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
