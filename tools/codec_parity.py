"""Our DAC and EnCodec beside transformers' on random weights in the published layouts; prints a table.

    python tools/codec_parity.py [--codecs=dac_16k,encodec_24k] [--small]

Needs torch and transformers, and at full size minutes and some gigabytes. Weights are drawn so that
activations neither vanish nor explode, and quantisers are fitted to what reaches them, so that at least half
of every codebook is used.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
import torch
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from v2meow_jax.codec import published
from v2meow_jax.codec.codec import Codec

DAC = {
  'dac_16k': {'downsampling_ratios': (2, 4, 5, 8), 'n_codebooks': 12, 'sampling_rate': 16000},
  'dac_24k': {'downsampling_ratios': (2, 4, 5, 8), 'n_codebooks': 32, 'sampling_rate': 24000},
  'dac_44k': {'downsampling_ratios': (2, 4, 8, 8), 'n_codebooks': 9, 'sampling_rate': 44100},
}
ENCODEC = {
  'encodec_24k': {},
  'encodec_32k': {
    'sampling_rate': 32000, 'num_filters': 64, 'upsampling_ratios': (8, 5, 4, 4), 'codebook_size': 2048,
    'target_bandwidths': (2.2,), 'use_causal_conv': False, 'use_conv_shortcut': False,
  },
}  # fmt: skip
SMALL_DAC = {
  'encoder_hidden_size': 2,
  'decoder_hidden_size': 16,
  'codebook_size': 16,
  'codebook_dim': 4,
  'n_codebooks': 3,
}
SMALL_ENCODEC = {'num_filters': 2, 'hidden_size': 8, 'codebook_size': 16}
SMALL_BANDWIDTHS = {'encodec_24k': (0.3, 0.6, 0.9), 'encodec_32k': (0.6,)}


def sound(rng: np.random.Generator, batch: int, samples: int) -> torch.Tensor:
  """Noise whose level and colour wander, so that frames differ: [batch, 1, samples]."""
  points = np.linspace(0, samples - 1, max(samples // 1500, 4))
  curve = lambda low, high: np.interp(  # noqa: E731
    np.arange(samples), points, rng.uniform(low, high, len(points))
  )
  rows = []
  for _ in range(batch):
    white, phase = rng.standard_normal(samples), np.cumsum(10 ** curve(-2.2, -0.2))
    dull = np.convolve(white, np.ones(16) / 4, 'same')
    mix = curve(0, 1)
    rows.append(10 ** curve(-2, -0.3) * (mix * white + (1 - mix) * dull + 2 * np.sin(phase)) / 2)
  return torch.tensor(np.stack(rows), dtype=torch.float32)[:, None]


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
  """Draws all weights but the codebooks."""
  generator = torch.Generator().manual_seed(seed)
  for name, p in model.named_parameters():
    if name.endswith('alpha'):
      p.copy_(torch.rand(p.shape, generator=generator) * 1.5 + 0.5)
    elif name.endswith('original0'):
      # The norm of what original1 is drawn with, give or take a fifth.
      p.copy_(_gain(name) * (0.8 + 0.4 * torch.rand(p.shape, generator=generator)))
    elif p.ndim == 1:
      p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    else:
      transposed = 'conv_t' in name or (p.ndim == 3 and p.shape[-1] > 7 and name.startswith('decoder'))
      fan = p.shape[0] * 2 if transposed else int(np.prod(p.shape[1:]))
      p.copy_(_gain(name) / fan**0.5 * torch.randn(p.shape, generator=generator))


def _gain(name: str) -> float:
  # The last convolution of a residual branch: so that adding them up does not make everything grow.
  return 0.3 if ('.res_unit' in name and '.conv2' in name) or '.block.3.' in name else 1.0


@torch.no_grad()
def fit_dac(model: torch.nn.Module, latents: torch.Tensor, seed: int) -> None:
  """Projections that whiten what arrives at each level; codebook entries as far apart as that is."""
  generator = torch.Generator().manual_seed(seed)
  residual = latents
  for rvq in model.quantizer.quantizers:
    rows = residual.transpose(1, 2).reshape(-1, residual.shape[1]).double()
    mean = rows.mean(0)
    _, scale, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    width = rvq.codebook_dim
    kernel = axes[:width] / scale[:width, None] * len(rows) ** 0.5
    _set(rvq.in_proj, kernel[..., None].float())
    rvq.in_proj.bias.copy_(-(kernel @ mean).float())
    rvq.codebook.weight.copy_(torch.randn(rvq.codebook.weight.shape, generator=generator))
    back = axes[:width] * scale[:width, None] / len(rows) ** 0.5
    _set(rvq.out_proj, 0.5 * back.T[..., None].float())
    rvq.out_proj.bias.copy_(0.1 * mean.float())
    residual = residual - rvq(residual)[0]


def _set(layer: torch.nn.Module, weight: torch.Tensor) -> None:
  """Sets a weight, also one under the authors' weight norm."""
  if hasattr(layer, 'weight_g'):
    layer.weight_g.copy_(weight.norm(dim=(1, 2), keepdim=True))
    layer.weight_v.copy_(weight)
  else:
    layer.weight.copy_(weight)


@torch.no_grad()
def fit_encodec(layers: list[tuple], latents: torch.Tensor, seed: int) -> None:
  """Codebook entries in the directions of what arrives at each level."""
  generator = torch.Generator().manual_seed(seed)
  residual = latents.transpose(1, 2).reshape(-1, latents.shape[1])
  for layer, codebook in layers:
    embed = codebook.embed
    size = embed.shape[0]
    mean = residual.mean(0)
    drawn = (residual - mean)[torch.randperm(len(residual), generator=generator)[:size]]
    # All as long: the nearest is then told by its direction, not by being short.
    length = 0.5 * (residual - mean).norm(dim=1).mean()
    embed.copy_(mean + length * drawn / drawn.norm(dim=1, keepdim=True))
    residual = residual - layer.decode(layer.encode(residual[None].transpose(1, 2))).transpose(1, 2)[0]


def make(name: str, small: bool, seed: int = 0) -> tuple[torch.nn.Module, dict[str, np.ndarray], dict]:
  """(model, its arrays, its settings)."""
  rng = np.random.default_rng(seed)
  if name in DAC:
    model = DacModel(DacConfig(**DAC[name] | (SMALL_DAC if small else {})))
  else:
    bandwidths = {'target_bandwidths': SMALL_BANDWIDTHS[name]} if small else {}
    model = EncodecModel(EncodecConfig(**ENCODEC[name] | (SMALL_ENCODEC if small else {}) | bandwidths))
  model.eval()
  randomise(model, seed)
  frames = 40 * 16 if small else 4 * (1024 if name != 'encodec_32k' else 2048)
  with torch.no_grad():
    latents = [model.encoder(sound(rng, 1, frames // 8 * model.config.hop_length)) for _ in range(8)]
  if name in DAC:
    fit_dac(model, torch.cat(latents, -1), seed)
  else:
    fit_encodec([(layer, layer.codebook) for layer in model.quantizer.layers], torch.cat(latents, -1), seed)
  if name == 'dac_24k':  # both spellings
    model.apply_weight_norm()
  arrays = {key: value.numpy() for key, value in model.state_dict().items()}
  return model, arrays, {'sampling_rate': model.config.sampling_rate}


@torch.no_grad()
def theirs(
  model: torch.nn.Module, x: torch.Tensor, levels: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """(codes [batch, time, levels], audio [batch, samples]) of the peer."""
  if isinstance(model, DacModel):
    codes = model.encode(
      torch.nn.functional.pad(x, (0, -x.shape[-1] % model.config.hop_length)), levels
    ).audio_codes
    return codes.transpose(1, 2).numpy(), model.decode(audio_codes=codes).audio_values.numpy()
  made = model.encode(x, bandwidth=model.config.target_bandwidths[-1])
  codes = made.audio_codes[:, :, :levels]
  return codes[0].transpose(1, 2).numpy(), model.decode(codes, [None]).audio_values[:, 0].numpy()


def theirs_apart(model: torch.nn.Module, x: torch.Tensor) -> dict[str, Callable[[], object]]:
  """The peer's ways on a signal, each to be called."""

  def no_grad(run: Callable[[], object]) -> Callable[[], object]:
    return torch.no_grad()(run)

  with torch.no_grad():
    codes = torch.tensor(theirs(model, x)[0]).transpose(1, 2)
  if isinstance(model, DacModel):
    return {
      'encode': no_grad(lambda: model.encode(x)), 'decode': no_grad(lambda: model.decode(audio_codes=codes)),
    }  # fmt: skip
  bandwidth = model.config.target_bandwidths[-1]
  return {
    'encode': no_grad(lambda: model.encode(x, bandwidth=bandwidth)),
    'decode': no_grad(lambda: model.decode(codes[None], [None])),
  }


def nearly_tied(codec: Codec, audio: np.ndarray, ours: np.ndarray, other: np.ndarray) -> float:
  """How far apart the two entries are that the codes name where they first differ in a frame, relatively.

  Distances are squared, of the residual there to both entries; of cosines for DAC.
  """
  latents = np.asarray(codec._run(codec.weights, codec._filled(audio), method='encode'), np.float64)
  books, worst = codec.weights['codebooks'], 0.0
  for b, t in zip(*np.nonzero((ours != other).any(-1)), strict=True):
    level = int(np.argmax(ours[b, t] != other[b, t]))
    known = np.asarray(codec._dequantize(codec.weights, ours[b : b + 1, t : t + 1, :level])) if level else 0.0
    residual = (
      latents[b, t] - np.asarray(known, np.float64).reshape(-1)[: latents.shape[-1]]
      if level
      else latents[b, t]
    )
    if isinstance(books, dict):
      residual = residual @ books['input']['kernel'][level] + books['input']['bias'][level]
      entries = books['vectors'][level].astype(np.float64)
      entries = entries / np.linalg.norm(entries, axis=-1, keepdims=True)
      residual = residual / np.linalg.norm(residual)
    else:
      entries = books[level].astype(np.float64)
    distance = [((residual - entries[codes[b, t, level]]) ** 2).sum() for codes in (ours, other)]
    worst = max(worst, abs(distance[0] - distance[1]) / max(distance))
  return worst


def compare(name: str, small: bool = False) -> list[str]:
  """Rows of the table."""
  model, arrays, settings = make(name, small)
  config, weights = published.convert(arrays, settings)
  codec, rng = Codec(config, weights), np.random.default_rng(1)
  hop, rows = codec.hop, []
  full = config.quantizer.levels
  busy = 300 if small else 6000
  for batch, samples, levels in (
    (8, busy // 8 * hop, full), (1, 33 * hop + 1, full), (1, 7 * hop, full // 2 or 1), (3, 50 * hop - 3, 1),
  ):  # fmt: skip
    x = sound(rng, batch, samples)
    codes, audio = theirs(model, x, levels)
    sounds = x.numpy().transpose(0, 2, 1)
    ours = codec.encode(sounds)[..., :levels]
    made = codec.decode(codes)[:, : audio.shape[1], 0]
    error = np.abs(made - audio).max() / np.sqrt(np.mean(audio.astype(np.float64) ** 2))
    used = min(len(np.unique(codes[..., k])) for k in range(levels)) / config.quantizer.codes
    if batch == 8 and used < 0.5:
      raise SystemExit(f'{name}: only {used:.0%} of a codebook is used; the comparison would say little')
    tied = nearly_tied(codec, sounds, ours, codes)
    rows.append(
      f'| {name} | {batch} x {samples} | {levels} | {used:.0%} | {np.mean(ours == codes):.4%} | {tied:.0e} | '
      f'{error:.1e} |'
    )
  return rows


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--codecs', default=','.join((*DAC, *ENCODEC)))
  parser.add_argument('--small', action='store_true')
  args = parser.parse_args()
  print(
    '| codec | batch x samples | levels | least used codebook | codes equal | nearest tie | error / RMS |'
  )
  print('|---|---|---|---|---|---|---|')
  for name in args.codecs.split(','):
    for row in compare(name, args.small):
      print(row, flush=True)


if __name__ == '__main__':
  sys.exit(main())
