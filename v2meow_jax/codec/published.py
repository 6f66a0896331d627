"""Weights of DAC and EnCodec as they were published, to our configuration and parameter tree.

Takes arrays by their names in a checkpoint: Hugging Face's layout or the authors', weight norm in any of
its three spellings. Nothing here reads files or needs PyTorch; `tools/import_codec.py` does.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from v2meow_jax import errors
from v2meow_jax.codec.codec import CodecConfig
from v2meow_jax.codec.dac import DacConfig
from v2meow_jax.codec.encodec import EncodecConfig
from v2meow_jax.codec.factorized import FactorizedConfig
from v2meow_jax.codec.quantizer import QuantizerConfig

Arrays = dict[str, np.ndarray]
# Sample rates of the published models, by what tells them apart: strides and codebooks.
RATES: dict[tuple[str, tuple[int, ...], int], int] = {
  ('dac', (2, 4, 5, 8), 12): 16000,
  ('dac', (2, 4, 5, 8), 32): 24000,
  ('dac', (2, 4, 8, 8), 9): 44100,
  ('encodec', (2, 4, 5, 8), 32): 24000,
  ('encodec', (4, 4, 5, 8), 4): 32000,
}
# The authors' names in Hugging Face's.
ORIGINAL = {
  'dac': (
    (r'encoder\.block\.0\.', r'encoder.conv1.'),
    (r'(encoder\.block)\.(\d+)\.block\.([012])\.block\.(\d)\.', r'\1.\2-1.res_unit\3+1.\4*.'),
    (r'(encoder\.block)\.(\d+)\.block\.3\.', r'\1.\2-1.snake1.'),
    (r'(encoder\.block)\.(\d+)\.block\.4\.', r'\1.\2-1.conv1.'),
    (r'decoder\.model\.0\.', r'decoder.conv1.'),
    (r'decoder\.model\.(\d+)\.block\.0\.', r'decoder.block.\1-1.snake1.'),
    (r'decoder\.model\.(\d+)\.block\.1\.', r'decoder.block.\1-1.conv_t1.'),
    (r'decoder\.model\.(\d+)\.block\.([234])\.block\.(\d)\.', r'decoder.block.\1-1.res_unit\2-1.\3*.'),
  ),
  'encodec': (
    (r'(encoder|decoder)\.model\.', r'\1.layers.'),
    (r'\.(conv|convtr)\.\1\.', r'.conv.'),
    (r'quantizer\.vq\.layers\.(\d+)\._codebook\.', r'quantizer.layers.\1.codebook.'),
  ),
}
# Our parameters' names in Hugging Face's.
OURS = {
  'dac': (
    (r'(encoder|decoder)_first/', r'\1.conv1/'),
    (r'(encoder|decoder)_last/', r'\1.conv2/'),
    (r'(encoder|decoder)_snake/', r'\1.snake1/'),
    (r'(encoder|decoder)_(\d+)_unit(\d)/', r'\1.block.\2.res_unit\3/'),
    (r'(encoder|decoder)_(\d+)_snake/', r'\1.block.\2.snake1/'),
    (r'encoder_(\d+)_down/', r'encoder.block.\1.conv1/'),
    (r'decoder_(\d+)_up/', r'decoder.block.\1.conv_t1/'),
  ),
  'encodec': (
    (r'(encoder|decoder)_(\d+)/', r'\1.layers.\2/'),
    (r'/block_(\d)/', r'.block.\1/'),
    (r'/shortcut/', r'.shortcut/'),
  ),
}
# What training left behind: averages that the codebooks are the quotient of.
UNUSED = re.compile(r'.*\.codebook\.(inited|cluster_size|embed_avg)')


def convert(
  arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any] | None = None, levels: int | None = None
) -> tuple[CodecConfig, dict]:
  """The codec in a checkpoint.

  Args:
    arrays: by their names there.
    settings: what is known besides, by Hugging Face's names: `sampling_rate`, and for EnCodec
      `use_causal_conv`. By default those of the published model of this shape.
    levels: codebooks to keep, the first ones; all by default.

  Returns:
    Configuration and weights, as `Codec` takes them.

  Raises:
    errors.InputError: the checkpoint is of a codec that is not supported here, arrays are missing or
      left over, or the sample rate is not known.
  """
  settings = dict(settings or {})
  kind, named = _recognised(arrays)
  named = _without_weight_norm(named)
  config = (_dac_config if kind == 'dac' else _encodec_config)(named, settings, levels)
  used: set[str] = set()
  found = _Source(named, used)
  books = _dac_books(found, config) if kind == 'dac' else _encodec_books(found, config)
  sample = np.zeros((1, 8 * config.network.hop, config.channels), np.float32)
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), sample)['params']
  flat: dict[str, Any] = dict(traverse_util.flatten_dict(shapes, sep='/'))  # type: ignore[arg-type] (joined)
  params: Arrays = {}
  for path, leaf in flat.items():
    layer = path.removesuffix('/bias').removesuffix('/conv/kernel')
    upsampling = {f'{layer}/bias', f'{layer}/conv/kernel'} <= set(flat)
    value = _parameter(kind, path, upsampling, found)
    if value.shape != leaf.shape:
      raise errors.BundleError(f'the checkpoint has {value.shape} for {path}, the network {leaf.shape}')
    params[path] = np.ascontiguousarray(value, np.float32)
  over = sorted(
    name for name in set(named) - used if not UNUSED.fullmatch(name) and not _dropped(name, config)
  )
  if over:
    raise errors.BundleError(
      f'the checkpoint has {len(over)} arrays that this network has not, such as {over[0]}'
    )
  return config, {'params': traverse_util.unflatten_dict(params, sep='/'), 'codebooks': books}


class _Source:
  """The checkpoint's arrays; remembers which were asked for."""

  def __init__(self, arrays: Arrays, used: set[str]):
    self._arrays, self._used = arrays, used

  def __getitem__(self, name: str) -> np.ndarray:
    if name not in self._arrays:
      raise errors.BundleError(f'the checkpoint has no array {name}; it is incomplete, or of another codec')
    self._used.add(name)
    return np.asarray(self._arrays[name], np.float32)


def _recognised(arrays: Mapping[str, np.ndarray]) -> tuple[str, Arrays]:
  """Which codec it is, and its arrays by Hugging Face's names, weight norm as it was."""
  names = set(arrays)
  if any('.norm.weight' in name for name in names) and any('lstm' in name for name in names):
    raise errors.BundleError(
      "this is EnCodec's 48 kHz model, whose group norm needs the whole signal; 24 and 32 kHz are supported"
    )
  if any('encoder_transformer' in name or 'acoustic_residual_vector' in name for name in names):
    raise errors.BundleError('this is a checkpoint of Mimi, which is not supported; DAC and EnCodec are')
  if any(re.match(r'quantizer\.quantizers\.\d+\.in_proj\.', name) for name in names):
    kind, original = 'dac', 'encoder.block.0.bias' in names
  elif any(re.match(r'(encoder|decoder)\.(layers|model)\.\d+\.lstm\.', name) for name in names):
    kind, original = 'encodec', any(name.startswith('encoder.model.') for name in names)
  else:
    raise errors.BundleError('this is no checkpoint of DAC or EnCodec: their quantiser or LSTM is not in it')
  if not original:
    return kind, dict(arrays)
  ends = _original_ends(arrays) if kind == 'dac' else {}
  return kind, {_renamed(kind, name, ends): value for name, value in arrays.items()}


def _original_ends(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
  """What DAC's last Snakes and convolutions are called, which are numbered in line with the blocks."""
  ends = {}
  for side in ('encoder.block', 'decoder.model'):
    numbers = {int(match[1]) for name in arrays if (match := re.match(rf'{side}\.(\d+)\.', name))}
    last, to = max(numbers), side.partition('.')[0]
    ends |= {f'{side}.{last - 1}.': f'{to}.snake1.', f'{side}.{last}.': f'{to}.conv2.'}
  return ends


def _renamed(kind: str, name: str, ends: Mapping[str, str]) -> str:
  for start, to in ends.items():
    if name.startswith(start):
      return to + name.removeprefix(start)
  for pattern, replacement in ORIGINAL[kind]:
    name = re.sub(pattern, replacement, name, count=1)
  # Numbers that are counted from elsewhere, and layers of a residual unit.
  name = re.sub(r'(\d+)([-+])1', lambda m: str(int(m[1]) + (1 if m[2] == '+' else -1)), name)
  return re.sub(r'(\d)\*', lambda m: ('snake1', 'conv1', 'snake2', 'conv2')[int(m[1])], name)


def _without_weight_norm(arrays: Arrays) -> Arrays:
  """Plain weights: g v / |v|, the norm over all but the first axis, also of transposed convolutions."""
  made = {}
  for name, value in arrays.items():
    pair = None
    for g, v in (('weight_g', 'weight_v'), *[(f'parametrizations.weight.original{i}' for i in (0, 1))]):
      if name.endswith(f'.{v}'):
        base = name.removesuffix(v)
        pair = base, base + g
      elif name.endswith(f'.{g}'):
        pair = None, None
    if pair is None:
      made[name] = value
    elif pair[0] is not None:
      if pair[1] not in arrays:
        raise errors.BundleError(f'the checkpoint has no array {pair[1]}; it is incomplete')
      v = np.asarray(value, np.float64)
      norm = np.sqrt(np.sum(v**2, axis=tuple(range(1, v.ndim)), keepdims=True))
      made[f'{pair[0]}weight'] = (np.asarray(arrays[pair[1]], np.float64) * v / norm).astype(np.float32)
  return made


def _strides(arrays: Arrays, pattern: str) -> tuple[int, ...]:
  """Half of the kernels' sizes, of the layers of this name, in order."""
  found = {int(m[1]): value.shape[-1] for name, value in arrays.items() if (m := re.fullmatch(pattern, name))}
  return tuple(found[n] // 2 for n in sorted(found))


def _count(arrays: Arrays, pattern: str) -> int:
  return sum(re.fullmatch(pattern, name) is not None for name in arrays)


def _rate(kind: str, strides: tuple[int, ...], codebooks: int, settings: Mapping[str, Any]) -> int:
  rate = settings.get('sampling_rate') or RATES.get((kind, strides, codebooks))
  if not rate:
    raise errors.BundleError(
      f'the sample rate of a {kind} with strides {strides} is not known; say which it is'
    )
  return int(rate)


def _kept(codebooks: int, levels: int | None) -> int:
  if levels is not None and not 1 <= levels <= codebooks:
    raise errors.ConfigError(f'{levels} levels: the codec has 1 to {codebooks}')
  return levels or codebooks


def _dac_config(arrays: Arrays, settings: Mapping[str, Any], levels: int | None) -> CodecConfig:
  strides = _strides(arrays, r'encoder\.block\.(\d+)\.conv1\.weight')
  codebooks = _count(arrays, r'quantizer\.quantizers\.\d+\.codebook\.weight')
  try:
    network = DacConfig(
      strides, arrays['encoder.conv1.weight'].shape[0], arrays['decoder.conv1.weight'].shape[0]
    )
    codes, width = arrays['quantizer.quantizers.0.codebook.weight'].shape
    dimension = arrays['encoder.conv2.weight'].shape[0]
    channels = arrays['encoder.conv1.weight'].shape[1]
  except KeyError as error:
    raise errors.BundleError(f'the checkpoint has no array {error}; it is incomplete') from error
  rvq = FactorizedConfig(_kept(codebooks, levels), codes, dimension, width)
  return CodecConfig(network, rvq, _rate('dac', strides, codebooks, settings), channels)


def _encodec_config(arrays: Arrays, settings: Mapping[str, Any], levels: int | None) -> CodecConfig:
  down = {
    int(m[1]): value.shape
    for name, value in arrays.items()
    if (m := re.fullmatch(r'encoder\.layers\.(\d+)\.conv\.weight', name))
  }
  numbers = sorted(down)
  try:
    strides = tuple(down[n][-1] // 2 for n in numbers[1:-1])
    shortcut = 'encoder.layers.1.shortcut.conv.weight' in arrays
    causal = bool(settings.get('use_causal_conv', shortcut))
    network = EncodecConfig(strides, down[0][0], causal, shortcut)
    codebooks = _count(arrays, r'quantizer\.layers\.\d+\.codebook\.embed')
    codes, dimension = arrays['quantizer.layers.0.codebook.embed'].shape
  except (KeyError, IndexError) as error:
    raise errors.BundleError(f'the checkpoint has no array {error}; it is incomplete') from error
  rvq = QuantizerConfig(_kept(codebooks, levels), codes, dimension)
  return CodecConfig(network, rvq, _rate('encodec', strides, codebooks, settings), down[0][1])


def _parameter(kind: str, path: str, upsampling: bool, source: _Source) -> np.ndarray:
  """A parameter of ours by its path."""
  for pattern, replacement in OURS[kind]:
    path = re.sub(pattern, replacement, path, count=1)
  *layers, name = path.split('/')
  if match := re.fullmatch(r'input_(\d)', layers[-1]):
    lstm = f'{layers[0]}.lstm'
    if name == 'kernel':
      return source[f'{lstm}.weight_ih_l{match[1]}'].T
    return source[f'{lstm}.bias_ih_l{match[1]}'] + source[f'{lstm}.bias_hh_l{match[1]}']
  if match := re.fullmatch(r'hidden_(\d)', name):
    return source[f'{layers[0]}.lstm.weight_hh_l{match[1]}'].T
  if upsampling:
    layers = layers[:1]
  elif kind == 'encodec':
    layers = layers[:-1]
  base = '.'.join([*layers, *(['conv'] if kind == 'encodec' else [])])
  if name == 'alpha':
    return source[f'{base}.alpha'].reshape(-1)
  if name == 'bias':
    return source[f'{base}.bias']
  weight = source[f'{base}.weight']
  if not upsampling:
    return weight.transpose(2, 1, 0)
  # A transposed convolution [in, out, 2 x stride] as one over pairs: the earlier input has the later taps.
  stride = weight.shape[2] // 2
  taps = np.stack([weight[:, :, stride:], weight[:, :, :stride]])  # [2, in, out, stride]
  return taps.transpose(0, 1, 3, 2).reshape(2, weight.shape[0], -1)


def _dac_books(source: _Source, config: CodecConfig) -> dict:
  prefix = 'quantizer.quantizers'
  levels = range(config.quantizer.levels)
  linear = lambda name: {  # noqa: E731
    'kernel': np.stack([source[f'{prefix}.{k}.{name}.weight'][..., 0].T for k in levels]),
    'bias': np.stack([source[f'{prefix}.{k}.{name}.bias'] for k in levels]),
  }
  vectors = np.stack([source[f'{prefix}.{k}.codebook.weight'] for k in levels])
  return {'input': linear('in_proj'), 'vectors': vectors, 'output': linear('out_proj')}


def _encodec_books(source: _Source, config: CodecConfig) -> np.ndarray:
  return np.stack([source[f'quantizer.layers.{k}.codebook.embed'] for k in range(config.quantizer.levels)])


def _dropped(name: str, config: CodecConfig) -> bool:
  """Whether it belongs to a codebook that is not kept."""
  match = re.match(r'quantizer\.(?:quantizers|layers)\.(\d+)\.', name)
  return match is not None and int(match[1]) >= config.quantizer.levels
