"""Signals in pieces give what the whole gives; no network sees further than its parts say."""

import functools

import jax
import numpy as np
import pytest

from v2meow_jax.codec.codec import Codec, CodecConfig
from v2meow_jax.codec.dac import DacConfig
from v2meow_jax.codec.encodec import EncodecConfig
from v2meow_jax.codec.factorized import FactorizedConfig
from v2meow_jax.codec.quantizer import QuantizerConfig
from v2meow_jax.codec.soundstream import SoundStreamConfig
from v2meow_jax.codec.spectral import SpectralConfig

NETWORKS = {
  'soundstream': SoundStreamConfig(strides=(2, 3), channels=4, dilations=(1, 3)),
  'spectral': SpectralConfig(128, 32, 2, width=16, encoder_blocks=2, decoder_blocks=2),
  'magnitude': SpectralConfig(128, 32, 2, 16, encoder_blocks=2, decoder_blocks=2, input='magnitude', mels=12),
  'dac_even': DacConfig(strides=(2, 4), channels=4, decoder_channels=16),
  'dac_odd': DacConfig(strides=(2, 5), channels=4, decoder_channels=16),
  'encodec_causal': EncodecConfig(strides=(2, 4), channels=4),
  'encodec_centred': EncodecConfig(strides=(4, 5), channels=4, causal=False, shortcut=False),
}
# One of each family; the others are told apart by sizes alone, or are checked in the whole suite.
SEVERAL = [
  name if name in ('soundstream', 'magnitude', 'dac_odd') else pytest.param(name, marks=pytest.mark.slow)
  for name in NETWORKS
]
CAUSAL = ('soundstream', 'encodec_causal')


@functools.cache
def codec(kind):
  rng = np.random.default_rng(0)
  factorized = kind.startswith('dac')
  rvq = FactorizedConfig(3, 32, 8, 4) if factorized else QuantizerConfig(3, 32, 8)
  config = CodecConfig(NETWORKS[kind], rvq, 8000)
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), np.zeros((1, 16 * config.network.hop, 1)))

  def fill(path, leaf):
    name = path[-1].key
    if name in ('alpha', 'scale'):
      return rng.uniform(0.5, 2, leaf.shape)
    fan = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 4
    # Small residual branches: sums of them must not drive everything into the last tanh's flat ends.
    gain = 0.3 if 'conv2' in {key.key for key in path} else 1.0
    return gain * rng.standard_normal(leaf.shape) / np.sqrt(fan)

  params = jax.tree_util.tree_map_with_path(fill, shapes['params'])
  vectors = rng.standard_normal((3, 32, 8)) * 0.6 ** np.arange(3)[:, None, None]
  if factorized:
    linear = lambda a, b: {'kernel': rng.standard_normal((3, a, b)) / a**0.5, 'bias': np.zeros((3, b))}  # noqa: E731
    books = {'input': linear(8, 4), 'vectors': vectors[..., :4], 'output': linear(4, 8)}
  else:
    books = vectors
  made = Codec(config, {'params': params, 'codebooks': books})
  assert len(np.unique(made.encode(noise(made.hop * 200))[0])) > 1
  return made


def noise(samples, seed=0):
  return (0.3 * np.random.default_rng(seed).standard_normal((samples, 1))).astype(np.float32)


def relative(found, wanted):
  return np.abs(found - wanted).max() / np.sqrt(np.mean(wanted.astype(np.float64) ** 2))


@pytest.mark.parametrize('kind', SEVERAL)
@pytest.mark.parametrize(
  'sizes',
  [[7, 1, 30, 2, 45, 15], *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ([20] * 6, [150]))],
)
def test_audio_in_pieces_is_that_of_the_whole(kind, sizes):
  made, rng = codec(kind), np.random.default_rng(1)
  codes = rng.integers(0, 32, (1, sum(sizes), 3))
  whole = np.asarray(made._decode(made.weights, codes))
  decoder = made.decoder(block=20)
  state, out, at = decoder.start(), [], 0
  for n, size in enumerate(sizes):
    state, audio = decoder.push(state, codes[:, at : at + size], last=n == len(sizes) - 1)
    out += [] if audio is None else [audio]
    at += size
    known = sum(piece.shape[1] for piece in out)
    if n < len(sizes) - 1:  # as much as can be known, no more and no less
      assert known == (max(at - decoder.delay, 0) * made.hop if at > decoder.lead + decoder.delay else 0)
  assert relative(np.concatenate(out, 1), whole) < 1e-5


@pytest.mark.parametrize('kind', SEVERAL)
def test_codes_in_pieces_are_those_of_the_whole(kind):
  made = codec(kind)
  sound = noise(made.hop * 143 + 1)
  whole = np.asarray(made._encode(made.weights, made._filled(sound[None])))
  blocks = [sound[None, at : at + 20 * made.hop] for at in range(0, len(sound), 20 * made.hop)]
  found = np.concatenate(list(made.encode_blocks(blocks)), 1)
  assert found.shape == whole.shape
  # Codes may differ where two entries are as near as float32 sums are exact.
  assert np.mean(found == whole) > 0.995


@pytest.mark.parametrize('kind', SEVERAL)
def test_the_parts_see_as_far_as_they_say(kind):
  """Whatever is beyond is no matter; and what is at the limit is, for the whole of the parts in a row."""
  made, hop = codec(kind), codec(kind).hop
  network, middle, length = made.config.network, 60, 120
  for direction, shape in (('encode', (1, length * hop, 1)), ('decode', (1, length, 8))):
    parts = network.parts(direction)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    for part in parts:
      if part.recurrent:
        x = np.asarray(made._run(made.weights, x, method=part.method)[0])
        continue
      y = np.asarray(made._run(made.weights, x, method=part.method))
      seen = []
      for frame in range(length):
        changed = x.copy()
        changed[:, frame * part.inputs : (frame + 1) * part.inputs] += 3
        moved = np.asarray(made._run(made.weights, changed, method=part.method))
        here = slice(middle * part.outputs, (middle + 1) * part.outputs)
        if np.abs(moved - y)[:, here].max() > 0:
          seen.append(frame)
      assert middle - part.before <= min(seen) and max(seen) <= middle + part.after
      # In whole frames the bound may be one too wide; not more, or streaming would wait for nothing.
      assert min(seen) - (middle - part.before) <= 1 and middle + part.after - max(seen) <= 1
      if kind in CAUSAL:
        assert max(seen) == middle and part.after == 0
      x = y


@pytest.mark.parametrize('kind', SEVERAL)
def test_a_batch_is_its_examples(kind):
  made = codec(kind)
  sound = np.stack([noise(made.hop * 40, seed) for seed in range(3)])
  codes = made.encode(sound)
  assert codes.shape == (3, 40, 3)
  audio = made.decode(codes)
  for n in range(3):
    assert np.mean(made.encode(sound[n]) == codes[n]) > 0.99  # ties by float32 sums
    # float32 sums, in another order for another number of rows.
    assert relative(made.decode(codes[n]), audio[n]) < 2e-5


@pytest.mark.parametrize('kind', SEVERAL)
def test_long_signals_go_in_blocks_by_themselves(kind, monkeypatch):
  made = codec(kind)
  monkeypatch.setattr('v2meow_jax.codec.codec.BLOCK_SECONDS', 20 * made.hop / 8000)
  sound = noise(made.hop * 130 + 3)
  codes = made.encode(sound)
  whole = np.asarray(made._encode(made.weights, made._filled(sound[None])))[0]
  assert codes.shape == whole.shape and np.mean(codes == whole) > 0.995
  audio = made.decode(codes)
  assert audio.shape == (131 * made.hop, 1)
  wanted = np.asarray(made._decode(made.weights, codes[None]))[0]
  # float32 sums in another order.
  assert relative(audio[: len(wanted)], wanted) < 2e-5 and not audio[len(wanted) :].any()


def test_the_state_of_a_stream_is_the_callers():
  made = codec('encodec_causal')
  codes = np.random.default_rng(3).integers(0, 32, (1, 60, 3))
  decoder = made.decoder(block=20)
  state, _ = decoder.push(decoder.start(), codes[:, :20])
  _, first = decoder.push(state, codes[:, 20:40])
  _, again = decoder.push(state, codes[:, 20:40])
  np.testing.assert_array_equal(first, again)
  with pytest.raises(ValueError, match='codes of shape'):
    decoder.push(state, codes[0])
  with pytest.raises(ValueError, match='codes reach'):
    decoder.push(state, codes + 32)
