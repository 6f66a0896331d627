"""Small random codecs with what the published code makes of a signal, for tests without PyTorch.

    python tools/make_codec_fixtures.py --out=tests/codec/fixtures

Needs torch and transformers; for the authors' layouts also the packages `descript-audio-codec` and `encodec`
(`pip install --no-deps`: what else they want is not used here, and stands in as mocks).
"""

import argparse
import pathlib
import sys
from typing import ClassVar
from unittest import mock

import codec_parity
import numpy as np
import torch

SEED = 3


class Base(torch.nn.Module):
  """Stands in for audiotools' BaseModel, which adds saving and loading to a module."""

  INTERN: ClassVar[list[str]] = []
  EXTERN: ClassVar[list[str]] = []


def authors(name: str) -> torch.nn.Module:
  """A small model of the authors' own code."""
  ml = mock.MagicMock(BaseModel=Base)
  mocks = {'audiotools': mock.MagicMock(ml=ml), 'audiotools.ml': ml, 'argbind': mock.MagicMock()}
  with mock.patch.dict(sys.modules, mocks | {'torchaudio': mock.MagicMock()}):
    if name == 'dac_44k':
      from dac.model.dac import DAC

      return DAC(2, [2, 4, 8, 8], None, 16, [8, 8, 4, 2], 3, 16, 4)
    from encodec.model import EncodecModel
    from encodec.modules import SEANetDecoder, SEANetEncoder
    from encodec.quantization import ResidualVectorQuantizer

    # The authors' 24 kHz model but for its sizes.
    network = {'n_filters': 2, 'dimension': 8, 'norm': 'weight_norm', 'causal': True}
    rvq = ResidualVectorQuantizer(dimension=8, n_q=3, bins=16)
    return EncodecModel(SEANetEncoder(**network), SEANetDecoder(**network), rvq, [0.9], 24000, 1)


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
  """As `codec_parity.randomise`, by the authors' names."""
  generator = torch.Generator().manual_seed(SEED)
  for name, p in model.named_parameters():
    if name.endswith('alpha'):
      p.copy_(torch.rand(p.shape, generator=generator) * 1.5 + 0.5)
    elif name.endswith('weight_g'):
      p.copy_(0.5 + 0.4 * torch.rand(p.shape, generator=generator))
    elif p.ndim == 1:
      p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    else:
      p.copy_(torch.randn(p.shape, generator=generator) / np.prod(p.shape[1:]) ** 0.5)


@torch.no_grad()
def run_authors(name: str) -> dict[str, np.ndarray]:
  """Arrays of a fixture."""
  model = authors(name).eval()
  randomise(model)
  hop = 512 if name == 'dac_44k' else 320
  x = codec_parity.sound(np.random.default_rng(2), 2, 20 * hop + (0 if name == 'dac_44k' else 5))
  if name == 'dac_44k':
    codec_parity.fit_dac(model, model.encoder(x), SEED)
    _, codes, *_ = model.encode(x)
    decoded = model.decode(model.quantizer.from_codes(codes)[0])
  else:
    layers = [(layer, layer._codebook) for layer in model.quantizer.vq.layers]
    codec_parity.fit_encodec(layers, model.encoder(x), SEED)
    ((codes, _),) = model.encode(x)
    decoded = model.decoder(model.quantizer.decode(codes.transpose(0, 1)))
  weights = {f'weights/{key}': value.numpy() for key, value in model.state_dict().items()}
  return weights | {
    'audio': x.numpy()[:, 0], 'codes': codes.transpose(1, 2).numpy().astype(np.int16),
    'decoded': decoded[:, 0].numpy(),
  }  # fmt: skip


def run_transformers(name: str) -> dict[str, np.ndarray]:
  """Arrays of a fixture."""
  model, arrays, settings = codec_parity.make(name, small=True)
  x = codec_parity.sound(np.random.default_rng(2), 2, 20 * model.config.hop_length + 5)
  codes, decoded = codec_parity.theirs(model, x)
  return {f'weights/{key}': value for key, value in arrays.items()} | {
    'sample_rate': settings['sampling_rate'], 'audio': x.numpy()[:, 0], 'codes': codes.astype(np.int16),
    'decoded': decoded,
  }  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', type=pathlib.Path, required=True)
  out = parser.parse_args().out
  out.mkdir(parents=True, exist_ok=True)
  for name in (*codec_parity.DAC, *codec_parity.ENCODEC):
    np.savez_compressed(out / f'{name}.npz', **run_transformers(name))
  for name in ('dac_44k', 'encodec_24k'):
    np.savez_compressed(out / f'{name}_authors.npz', **run_authors(name))


if __name__ == '__main__':
  sys.exit(main())
