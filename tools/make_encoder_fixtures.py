"""Small random networks with what the published code makes of an input, for tests without that code.

    python tools/make_encoder_fixtures.py --out=tests/encoders/fixtures [clip siglip ...]

Each is a safetensors file: `weights/NAME` as published, `in/...`, `out/...`, `config.json` in its metadata.
Needs torch and transformers.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

SEED = 3


@torch.no_grad()
def randomise(model: torch.nn.Module) -> torch.nn.Module:
  """Weights of a size that lets every part of the network matter."""
  generator = torch.Generator().manual_seed(SEED)
  for name, p in model.named_parameters():
    noise = torch.randn(p.shape, generator=generator)
    if p.ndim < 2:
      p.copy_((1 if 'norm' in name and name.endswith('weight') else 0) + 0.2 * noise)
    else:
      p.copy_(noise / np.prod(p.shape[1:]) ** 0.5)
  return model.eval()


def sizes(**more: int) -> dict[str, int]:
  return {'hidden_size': 12, 'intermediate_size': 20, 'num_hidden_layers': 2, 'num_attention_heads': 2} | more


def pictures(side: int) -> np.ndarray:
  """uint8 [4, side, side, 3]."""
  return np.random.default_rng(1).integers(0, 256, (4, side, side, 3), np.uint8)


def as_pixels(images: np.ndarray, mean: tuple, deviation: tuple) -> torch.Tensor:
  """As the image processors of transformers make them."""
  scaled = (images.astype(np.float64) / 255 - mean) / deviation
  return torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32)


def pooled(found) -> np.ndarray:
  return getattr(found, 'pooler_output', found).numpy()


@torch.no_grad()
def clip() -> tuple[dict, dict]:
  config = transformers.CLIPConfig(
    text_config=sizes(
      vocab_size=30, max_position_embeddings=12, eos_token_id=29, bos_token_id=28, pad_token_id=0
    ),
    vision_config=sizes(patch_size=4, image_size=16),
    projection_dim=12,
  )
  model = randomise(transformers.CLIPModel(config))
  images = pictures(16)
  tokens = np.array([[28, 3, 4, 29, 29, 29], [28, 7, 1, 5, 9, 29]])
  mean, deviation = transformers.image_utils.OPENAI_CLIP_MEAN, transformers.image_utils.OPENAI_CLIP_STD
  made = {
    'in/pictures': images,
    'in/tokens': tokens,
    'out/pictures': pooled(model.get_image_features(as_pixels(images, mean, deviation))),
    'out/texts': pooled(model.get_text_features(torch.tensor(tokens))),
  }
  return weights(model) | made, config.to_diff_dict()


@torch.no_grad()
def siglip() -> tuple[dict, dict]:
  config = transformers.SiglipConfig(
    text_config=sizes(vocab_size=30, max_position_embeddings=8),
    vision_config=sizes(patch_size=4, image_size=16),
  )
  model = randomise(transformers.SiglipModel(config))
  images = pictures(16)
  tokens = np.array([[3, 4, 9, 1, 1, 1, 1, 1], [7, 1, 5, 9, 29, 11, 2, 3]])
  half = (0.5, 0.5, 0.5)
  made = {
    'in/pictures': images,
    'in/tokens': tokens,
    'out/pictures': pooled(model.get_image_features(as_pixels(images, half, half))),
    'out/texts': pooled(model.get_text_features(torch.tensor(tokens))),
  }
  return weights(model) | made, config.to_diff_dict()


def weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
  return {f'weights/{key}': value.numpy() for key, value in model.state_dict().items()}


MADE = {'clip': clip, 'siglip': siglip}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--out', type=pathlib.Path, required=True)
  parser.add_argument('names', nargs='*', default=list(MADE))
  args = parser.parse_args()
  for name in args.names:
    arrays, config = MADE[name]()
    path = args.out / f'{name}.safetensors'
    arrays = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
    save_file(arrays, path, metadata={'config.json': json.dumps(config)})
    print(path, path.stat().st_size)


if __name__ == '__main__':
  main()
