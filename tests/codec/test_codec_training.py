import dataclasses
import functools
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from v2meow_jax import description, errors
from v2meow_jax.codec.codec import TYPES, Codec, CodecConfig
from v2meow_jax.codec.quantizer import QuantizerConfig
from v2meow_jax.codec.soundstream import SoundStreamConfig
from v2meow_jax.codec.spectral import SpectralConfig
from v2meow_jax.codec.trainable import CodecTrainable
from v2meow_jax.encoders import registry
from v2meow_jax.training.optimizers import adamw

WARMUP, STEPS = 20, 45
NETWORKS = {
  'spectral': SpectralConfig(256, 64, 1, 32, 2, encoder_blocks=1, decoder_blocks=1),
  'magnitude': SpectralConfig(256, 64, 1, 32, 2, 1, 1, input='magnitude', mels=20),
  'soundstream': SoundStreamConfig(strides=(16,), channels=4, dilations=(1,)),
}
# Of latents: less than the warm-up sees, and more.
RINGS = {'soundstream': 1024, 'spectral': 8192, 'magnitude': 8192}


def tones(step, batch=4, samples=2048):
  """Steady tones of random pitch at 8 kHz, 16-bit."""
  rng = np.random.default_rng(step)
  frequency, phase = rng.uniform(200, 2000, (batch, 1)), rng.uniform(0, 2 * np.pi, (batch, 1))
  wave = 0.4 * np.sin(2 * np.pi * frequency * np.arange(samples) / 8000 + phase)
  return {'audio/waveform': np.round(wave * 32767).astype(np.int16)[..., None]}


@functools.cache
def run(kind):
  config = CodecConfig(NETWORKS[kind], QuantizerConfig(2, 8, 4, dead_below=0.1), 8000)
  trainable = CodecTrainable(config, adamw(3e-3), warmup_steps=WARMUP, ring=RINGS[kind], windows=(256,))
  state = nn.unbox(jax.jit(trainable.init)(jax.random.key(0), tones(0)))
  step, evaluate = jax.jit(trainable.step), jax.jit(trainable.evaluate)
  states, rows = [state], []
  for number in range(STEPS):
    state, row = step(state, tones(number), jax.random.key(number))
    states.append(state)
    rows.append(jax.device_get(row))
  # A codec works on whole hops of 64 or 16 samples: those beyond are left out, whatever they are.
  held_out = jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 15), (0, 0)), constant_values=9999), tones(10_000))
  evaluations = [jax.device_get(evaluate(states[i], held_out)) for i in (0, WARMUP, STEPS)]
  return trainable, states, rows, evaluations


@pytest.mark.parametrize('kind', NETWORKS)
def test_training_lowers_the_loss(kind):
  _, _, rows, evaluations = run(kind)
  before, warmed, after = (row['loss'] for row in evaluations)
  # Twenty steps already learn the level and rough spectrum of a tone; a fresh network makes noise.
  assert warmed < 0.8 * before
  # With the quantiser the loss goes on being below that of the fresh network without one.
  assert after < 0.8 * before
  assert np.mean([row['loss'] for row in rows[-5:]]) < 0.8 * rows[0]['loss']


@pytest.mark.parametrize('kind', NETWORKS)
def test_codebooks_are_zeros_until_the_warm_up_ends_and_none_after(kind):
  _, states, _, _ = run(kind)
  for state in states[:WARMUP]:
    assert not np.any(state['books'].vectors) and not np.any(state['books'].counts)
  for state in (states[WARMUP], states[-1]):
    assert (np.abs(np.asarray(state['books'].vectors)).max((1, 2)) > 0).all()
    assert (np.asarray(state['books'].counts) > 0).all()
  assert int(states[-1]['step']) == STEPS


@pytest.mark.parametrize('kind', NETWORKS)
def test_the_books_move_after_the_warm_up(kind):
  _, states, _, _ = run(kind)
  fitted, later = states[WARMUP]['books'].vectors, states[-1]['books'].vectors
  assert (np.asarray(fitted) != np.asarray(later)).any((1, 2)).all()


@pytest.mark.parametrize('kind', NETWORKS)
def test_metrics_are_finite_and_commitment_counts_after_the_warm_up(kind):
  trainable, _, rows, evaluations = run(kind)
  for row in rows + evaluations:
    assert all(np.isfinite(value) for value in row.values())
  for number, row in enumerate(rows):
    expected = row['mel'] + row['convergence'] + 0.2 * row['complex']
    expected += 0.25 * row['commitment'] if number >= WARMUP else 0
    assert row['loss'] == pytest.approx(expected, rel=1e-5)  # float32 sums
  assert evaluations[0]['weight'] == 4
  assert trainable.warmup_steps == WARMUP


def test_the_ring_holds_the_latest_latents_first():
  trainable, states, _, _ = run('spectral')
  encode = jax.jit(functools.partial(trainable.config.build().apply, method='encode'))
  for number in (0, 5):
    audio = tones(number)['audio/waveform'].astype(np.float32) / 32768
    latents = encode({'params': states[number]['params']}, audio)
    ring = np.asarray(states[number + 1]['ring'])
    # Compiled with and without the rest of the step, float32.
    np.testing.assert_allclose(ring[:128], latents.reshape(-1, 4), atol=1e-4)
    np.testing.assert_array_equal(ring[128:], np.asarray(states[number]['ring'])[:-128])


def test_a_ring_that_the_warm_up_has_not_filled_fits_books_to_latents_alone():
  _, states, _, _ = run('spectral')
  ring = np.asarray(states[WARMUP]['ring'])
  latents, unfilled = ring[: WARMUP * 128], ring[WARMUP * 128 :]
  assert not unfilled.any() and len(unfilled) > len(latents)
  # Every latent is well away from the zeros that the rest of the ring holds, and so is every mean of some.
  nearest = np.linalg.norm(latents, axis=1).min()
  assert np.linalg.norm(states[WARMUP]['books'].vectors[0], axis=1).min() > nearest / 2 > 0.1


def test_weights_and_description_make_the_codec_that_was_trained():
  trainable, states, _, evaluations = run('spectral')
  about = json.loads(json.dumps(trainable.describe()))
  assert about['kind'] == 'codec'
  codec = Codec(description.rebuild(about['codec'], TYPES), trainable.weights(states[-1]))
  audio = tones(10_000)['audio/waveform'].astype(np.float32) / 32768
  decoded = np.stack([codec.decode(codec.encode(example)) for example in audio])
  target = audio[..., 0] - audio[..., 0].mean(1, keepdims=True)
  made = decoded[..., 0] - decoded[..., 0].mean(1, keepdims=True)
  scale = (made * target).sum(1, keepdims=True) / (target**2).sum(1, keepdims=True)
  ratio = ((scale * target) ** 2).sum(1) / ((made - scale * target) ** 2).sum(1)
  # Evaluation is batched and compiled as a whole; a ratio near 0 dB amplifies its float32 rounding.
  assert np.mean(10 * np.log10(ratio)) == pytest.approx(float(evaluations[-1]['si_sdr']), abs=0.05)


@pytest.mark.parametrize('kind', NETWORKS)
def test_a_decoder_alone_learns_over_the_same_tokens(kind):
  trained, states, _, _ = run(kind)
  alone = dataclasses.replace(
    trained, warmup_steps=0, decoder_only=True, optimizer=adamw(3e-3, weight_decay=0.1)
  )
  fresh = nn.unbox(jax.jit(alone.init)(jax.random.key(1), tones(0)))
  state = begun = alone.with_weights(fresh, trained.weights(states[-1]))
  step = jax.jit(alone.step)
  for number in range(15):
    state, row = step(state, tones(100 + number), jax.random.key(number))
  assert np.isfinite(row['loss']) and row['codes_replaced'] == 0 and int(state['step']) == 15
  jax.tree.map(np.testing.assert_array_equal, state['books'], begun['books'])
  moved = {
    name: any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), value, begun['params'][name])))
    for name, value in state['params'].items()
  }
  assert any(moved.values())
  assert all(change != name.startswith('encoder') for name, change in moved.items()), moved
  sound = tones(10_001)['audio/waveform'][0] / np.float32(32768)
  before, after = (Codec(trained.config, jax.device_get(alone.weights(x))) for x in (begun, state))
  np.testing.assert_array_equal(before.encode(sound), after.encode(sound))
  # So data and stages of the one are the other's too; those of a codec that was trained on are not.
  assert before.identity['sha256'] != after.identity['sha256'] and registry.same(
    before.identity, after.identity
  )
  more = Codec(trained.config, jax.device_get(trained.weights(states[-2])))
  assert not registry.same(before.identity, more.identity)
  # Earlier versions told no hash of what makes codes.
  earlier = {key: value for key, value in before.identity.items() if key != 'codes'}
  assert registry.same(earlier, before.identity) and not registry.same(earlier, after.identity)
  with pytest.raises(errors.ConfigError, match='no warm-up'):
    dataclasses.replace(alone, warmup_steps=5)


@pytest.mark.slow
def test_each_dataset_has_its_mel_loss():
  trainable, states, _, _ = run('magnitude')
  batch, evaluate = tones(77), jax.jit(trainable.evaluate)
  marks = {'a': [True, False, False, True], 'b': [False, True, True, False], 'c': [False] * 4}
  told = {f'dataset/{name}': np.array(mark) for name, mark in marks.items()}
  found = jax.device_get(evaluate(states[-1], batch | told))
  for name in 'ab':
    alone = evaluate(states[-1], {key: value[told[f'dataset/{name}']] for key, value in batch.items()})
    assert found[f'mel_dataset/{name}'] == pytest.approx(float(alone['mel']), rel=1e-5)
  assert np.isnan(found['mel_dataset/c'])
  _, row = jax.jit(trainable.step)(states[-1], batch | told, jax.random.key(0))
  assert np.isfinite(row['mel_dataset/a']) and np.isnan(row['mel_dataset/c'])
