"""Discriminators, their losses and their part in a step."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from v2meow_jax import errors
from v2meow_jax.codec import adversary, quantizer
from v2meow_jax.codec.adversary import Adversary
from v2meow_jax.codec.codec import CodecConfig
from v2meow_jax.codec.discriminators import DiscriminatorConfig, Discriminators, GroupedConv
from v2meow_jax.codec.soundstream import SoundStreamConfig
from v2meow_jax.codec.trainable import CodecTrainable

SMALL = DiscriminatorConfig(
  scales=(1, 2), wave_channels=4, wave_width=16, windows=(128,), stft_channels=2, blocks=3
)
CODEC = CodecConfig(
  SoundStreamConfig((4, 4), 4, (1,)), quantizer.QuantizerConfig(2, 16, 8, dead_below=0.1), 8000
)


def judgements(seed, *sizes):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
  return [(draw(2, n), [draw(2, n, 3), draw(2, 2 * n, 5)]) for n in sizes]


def test_the_losses_are_the_papers():
  real, fake = judgements(0, 4, 7), judgements(1, 4, 7)
  # SoundStream, equations 1 to 3, written out; every mean over the values of one discriminator or layer.
  discriminator = np.mean([
    np.maximum(0, 1 - np.asarray(r)).mean() + np.maximum(0, 1 + np.asarray(f)).mean()
    for (r, _), (f, _) in zip(real, fake, strict=True)
  ])  # fmt: skip
  codec = np.mean([np.maximum(0, 1 - np.asarray(f)).mean() for f, _ in fake])
  features = np.mean([
    np.abs(np.asarray(a) - np.asarray(b)).mean()
    for (_, ours), (_, theirs) in zip(real, fake, strict=True) for a, b in zip(ours, theirs, strict=True)
  ])  # fmt: skip
  assert adversary.hinge(real, fake) == pytest.approx(discriminator, rel=1e-6)
  assert adversary.deception(fake) == pytest.approx(codec, rel=1e-6)
  assert adversary.feature_distance(real, fake) == pytest.approx(features, rel=1e-6)
  undecided = [(jnp.zeros((2, 3)), [])]
  assert adversary.hinge(undecided, undecided) == adversary.UNDECIDED


def test_discriminators_see_waves_at_their_scales_and_a_spectrum():
  network, audio = Discriminators(SMALL), jnp.ones((2, 1024, 1))
  judged, variables = jax.eval_shape(network.init_with_output, jax.random.key(0), audio)
  shapes = [(logits.shape, [x.shape for x in features]) for logits, features in judged]
  assert [shape[0] for shape in shapes] == [
    (2, 4, 1),
    (2, 2, 1),
    (2, 16, 1),
  ]
  assert shapes[2][1] == [(2, 32, 64, 2), (2, 32, 32, 4), (2, 16, 16, 8), (2, 16, 8, 8)]
  assert set(variables['params']) == {'wave_1', 'wave_2', 'stft_128'}
  # As MelGAN has it: four inputs a group.
  assert variables['params']['wave_1']['GroupedConv_0']['kernel'].shape == (41, 4, 16)
  stereo = jax.eval_shape(Discriminators(SMALL).init, jax.random.key(0), jnp.ones((1, 1024, 2)))['params']
  assert stereo['stft_128']['Conv_0']['kernel'].shape == (7, 7, 4, 2)


@pytest.mark.parametrize('time', [64, 63, 61, 5])
def test_grouped_convolutions_are_xlas(time):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, time, 12)), jnp.float32)
  ours = GroupedConv(24, 41, 4, 3)
  params = nn.unbox(ours.init(jax.random.key(0), x))
  theirs = nn.Conv(24, (41,), strides=4, feature_group_count=3)
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, theirs.init(jax.random.key(0), x))

  def both(params, x, network):
    return jnp.sum(jnp.sin(network.apply(params, x)))

  for n in (0, 1):
    found = [jax.grad(both, n)(params, x, network) for network in (ours, theirs)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *found)
  np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=1e-5)


def test_a_scale_sees_nothing_of_what_is_above_its_rate():
  network = Discriminators(dataclasses.replace(SMALL, scales=(8,), windows=()))
  time = np.arange(4096) / 8000
  quiet, high = 0.0 * time, np.sin(2 * np.pi * 4000 * time + 1)
  params = network.init(jax.random.key(0), jnp.zeros((1, 4096, 1)))
  logits = [network.apply(params, jnp.asarray(x, jnp.float32)[None, :, None])[0][0] for x in (quiet, high)]
  np.testing.assert_allclose(logits[0][:, 1:-1], logits[1][:, 1:-1], atol=1e-5)  # the edges see the cut


@functools.cache
def made(**changed):
  return Adversary(SMALL, optax.sgd(0.05), **changed)


@functools.cache
def fresh(against):
  return nn.unbox(jax.jit(lambda key: against.init(key, 1))(jax.random.key(0)))


def pair(seed=0):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(0.3 * rng.standard_normal((2, 512, 1)), jnp.float32) for _ in range(2)]


def test_what_the_codec_is_told_is_the_gradient_of_the_weighted_losses():
  against = made(weight=0.7, feature_weight=3.0)
  state, (decoded, audio) = fresh(against), pair()
  judge = functools.partial(Discriminators(SMALL).apply, {'params': state['params']})

  @jax.jit
  @jax.grad
  def told(decoded):
    real, fake = judge(audio), judge(decoded)
    return 0.7 * adversary.deception(fake) + 3.0 * adversary.feature_distance(real, fake)

  new, gradient, metrics = jax.jit(against.step)(state, decoded, audio, jnp.int32(0))
  wanted = told(decoded)
  np.testing.assert_allclose(gradient, wanted, atol=1e-6 * float(jnp.abs(wanted).max()) + 1e-9)

  def own(params):
    both = [Discriminators(SMALL).apply({'params': params}, x) for x in (audio, decoded)]
    return adversary.hinge(*both)

  value, grads = jax.jit(jax.value_and_grad(own))(state['params'])
  assert metrics['discriminator_loss'] == pytest.approx(float(value), rel=1e-5)
  for ours, before, g in zip(*map(jax.tree.leaves, (new['params'], state['params'], grads)), strict=True):
    np.testing.assert_allclose(ours, before - 0.05 * g, atol=1e-6)
  assert new['balance'] == pytest.approx(0.99 * 2 + 0.01 * float(value), rel=1e-6)


@pytest.mark.slow
def test_before_the_start_nothing_is_learned_or_told():
  against = made(start=10)
  state, (decoded, audio) = fresh(against), pair()
  new, gradient, metrics = jax.jit(against.step)(state, decoded, audio, jnp.int32(9))
  jax.tree.map(np.testing.assert_array_equal, new, state)
  assert not gradient.any() and metrics['adversarial'] == 0 and metrics['alarm/discriminator'] == 0
  new, gradient, _ = jax.jit(against.step)(state, decoded, audio, jnp.int32(10))
  assert gradient.any() and new['balance'] != state['balance']


@pytest.mark.slow
def test_discriminators_that_win_by_too_much_are_held_and_then_raise_an_alarm():
  against = made(hold_below=0.5, saturated_below=0.05)
  state, (decoded, audio) = fresh(against), pair()
  won = state | {'balance': jnp.float32(0.4)}
  new, gradient, metrics = jax.jit(against.step)(won, decoded, audio, jnp.int32(0))
  jax.tree.map(np.testing.assert_array_equal, new['params'], won['params'])
  assert metrics['discriminator_held'] == 1 and metrics['alarm/discriminator'] == 0 and gradient.any()
  assert new['balance'] > 0.4  # it recovers as the codec learns
  for balance in (0.01, 20.0):  # far too good, and worse than knowing nothing
    far = state | {'balance': jnp.float32(balance)}
    assert jax.jit(against.step)(far, decoded, audio, jnp.int32(0))[2]['alarm/discriminator'] == 1


# In a codec's step.


def music(seed, batch=4):
  rng = np.random.default_rng(seed)
  time = np.arange(1024) / 8000
  waves = np.sin(2 * np.pi * rng.uniform(200, 2000, (batch, 1)) * time) * rng.uniform(0.1, 0.6, (batch, 1))
  return {'audio/waveform': np.round(20000 * waves).astype(np.int16)[..., None]}


def trainable(**changed):
  settings = {
    'optimizer': optax.adam(1e-3), 'adversary': made(), 'warmup_steps': 0, 'windows': (256,),
    'mel_weight': 0.1,
  }  # fmt: skip
  return CodecTrainable(CODEC, **(settings | changed))


def test_without_a_warm_up_the_codebooks_are_k_means_of_the_first_batch():
  one = trainable()
  state = nn.unbox(jax.jit(one.init)(jax.random.key(0), music(0)))
  assert 'ring' not in state and state['step'] == 0
  audio = music(0)['audio/waveform'].astype(np.float32) / 32768
  latents = np.asarray(CODEC.build().apply({'params': state['params']}, audio, method='encode')).reshape(
    -1, 8
  )
  books = np.asarray(state['books'].vectors)
  index = np.argmin(((latents[:, None] - books[0][None]) ** 2).sum(-1), 1)
  # Centres are the means of what is nearest to them, but for the last of Lloyd's iterations.
  spread = np.square(latents - latents.mean(0)).sum(-1).mean()
  left = np.square(latents - books[0][index]).sum(-1).mean()
  assert left < 0.3 * spread and len(np.unique(index)) >= 8
  other = nn.unbox(jax.jit(one.init)(jax.random.key(0), music(1)))
  assert np.abs(np.asarray(other['books'].vectors) - books).max() > 0
  jax.tree.map(np.testing.assert_array_equal, state['params'], other['params'])


def test_training_against_discriminators_learns_and_says_how():
  one = trainable()
  state = nn.unbox(jax.jit(one.init)(jax.random.key(0), music(0)))
  step, evaluate = jax.jit(one.step), jax.jit(one.evaluate)
  before = evaluate(state, music(99))
  for n in range(40):
    state, row = step(state, music(n), jax.random.key(n))
  after = evaluate(state, music(99))
  assert after['mel'] < before['mel'] and after['stft'] < before['stft']
  names = {
    'gradient_ratio', 'discriminator_loss', 'real_logit', 'fake_logit', 'codes_replaced',
    'perplexity_level_0', 'perplexity_level_1', 'alarm/codebooks', 'alarm/discriminator',
  }  # fmt: skip
  assert names <= set(row) and all(np.isfinite(value) for value in row.values())
  assert row['gradient_ratio'] > 0
  assert state['adversary']['balance'] != adversary.UNDECIDED


@pytest.mark.slow
def test_an_alarm_is_raised_when_the_codes_collapse():
  one = trainable(adversary=None, optimizer=optax.sgd(0.0))
  state = nn.unbox(jax.jit(one.init)(jax.random.key(0), music(0)))
  step = jax.jit(one.step)
  for n in range(5):
    state, row = step(state, music(n), jax.random.key(n))
    assert row['alarm/codebooks'] == 0
  silence = {'audio/waveform': np.zeros((4, 1024, 1), np.int16)}
  raised = []
  for n in range(60):
    state, row = step(state, silence, jax.random.key(n))
    raised.append(float(row['alarm/codebooks']))
  # All frames have one code: perplexity 1, its running mean falls by a twentieth a step.
  assert raised[0] == 0 and raised[-1] == 1 and sorted(raised) == raised
  best, mean = float(state['perplexity']['best']), float(state['perplexity']['mean'])
  assert mean < 0.3 * best


@pytest.mark.parametrize(
  'build',
  [
    lambda: DiscriminatorConfig(scales=(), windows=()),
    lambda: DiscriminatorConfig(windows=(64,)),
    lambda: made(weight=-1.0),
    lambda: trainable(warmup_steps=-1),
    lambda: trainable(collapse=1.0),
  ],
)
def test_settings_that_mean_nothing_are_refused(build):
  with pytest.raises(errors.ConfigError):
    build()
