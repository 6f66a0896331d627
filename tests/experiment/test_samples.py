"""Samples during training: what `v2meow generate` makes of the same weights, and errors that stop nothing."""

import dataclasses
import io
import wave

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
import soundfile

from v2meow_jax import bundles, errors
from v2meow_jax.codec.codec import Codec
from v2meow_jax.codec.trainable import CodecTrainable
from v2meow_jax.commands import generate
from v2meow_jax.experiment.samples import ClipSampler
from v2meow_jax.media import audio, loudness
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.stages import Target
from v2meow_jax.training import loop

SECONDS, SEED = 2.0, 3


def described(**changed):
  """What a run of the semantic stage says of itself."""
  stage, config = small.make_stages(small.make_codec())[0]
  stage = dataclasses.replace(stage, **changed)
  return StageTrainable(stage, dataclasses.replace(config, scan_layers=True), optax.sgd(0.1)).describe()


def read(path):
  with wave.open(str(path)) as file:
    samples = np.frombuffer(file.readframes(file.getnframes()), '<i2')
    return file.getframerate(), file.getnchannels(), samples


@pytest.fixture(scope='module')
def generated(small_bundle, demo_clip, tmp_path_factory):
  """The sound that the command makes of the clip by the bundle as it is."""
  out = tmp_path_factory.mktemp('generated')
  asked = [
    str(demo_clip),
    f'--bundle={small_bundle}',
    f'--out={out}',
    f'--duration={SECONDS}',
    f'--seed={SEED}',
  ]
  assert generate.main(asked) == 0
  return out / f'{demo_clip.stem}.wav'


@pytest.fixture
def sampler(small_bundle, demo_clip):
  return ClipSampler(str(demo_clip), str(small_bundle), SECONDS, SEED)


@pytest.fixture
def weights(small_bundle):
  return bundles.load(small_bundle).network('semantic')


def test_the_bundles_own_weights_sound_as_the_bundle_does(sampler, weights, generated, tmp_path):
  sampler(described(), weights, tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['sample.png', 'sample.wav']
  assert (tmp_path / 'sample.wav').read_bytes() == generated.read_bytes()
  rate, channels, samples = read(tmp_path / 'sample.wav')
  assert (rate, channels, len(samples)) == (8000, 1, SECONDS * 8000)
  assert (tmp_path / 'sample.png').read_bytes()[:8] == b'\x89PNG\r\n\x1a\n'


def test_other_weights_or_another_seed_sound_otherwise_and_the_same_ones_alike(
  sampler, weights, generated, tmp_path
):
  # A vocabulary of 16 codes upside down, so that other tokens are the likely ones.
  other = weights | {'head': weights['head'][..., ::-1].copy()}
  sounds = []
  for number, seed, chosen in ((0, SEED, other), (1, SEED, other), (2, SEED + 1, weights)):
    folder = tmp_path / str(number)
    folder.mkdir()
    dataclasses.replace(sampler, seed=seed)(described(), chosen, folder)
    sounds.append((folder / 'sample.wav').read_bytes())
  assert sounds[0] == sounds[1]
  assert len({sounds[0], sounds[2], generated.read_bytes()}) == 3


def test_a_codec_encodes_and_decodes_the_clips_own_sound(demo_clip, tmp_path):
  codec = small.make_codec()
  about = CodecTrainable(codec.config, optax.sgd(0.1)).describe()
  ClipSampler(str(demo_clip), seconds=1.5)(about, codec.weights, tmp_path)
  rate, channels, samples = read(tmp_path / 'sample.wav')
  assert (rate, channels) == (8000, 1)
  # Whole frames of 320 samples.
  assert 12000 <= len(samples) < 12000 + 320
  sound, found = audio.load_audio(demo_clip, 8000, 1, duration=1.5)
  again = Codec(codec.config, codec.weights)
  wanted = loudness.normalize_loudness(again.decode(again.encode(sound)), 8000, -16.0)
  assert found == 8000 and len(wanted) == len(samples)
  # 16 bits, rounded.
  np.testing.assert_allclose(samples / 32767, wanted[:, 0], atol=1e-4)
  assert np.abs(samples).max() > 1000


def test_a_codec_with_other_weights_sounds_otherwise(demo_clip, tmp_path):
  sounds = []
  for seed in (0, 1):
    codec = small.make_codec(seed)
    about = CodecTrainable(codec.config, optax.sgd(0.1)).describe()
    ClipSampler(str(demo_clip), seconds=1)(about, codec.weights, tmp_path)
    sounds.append((tmp_path / 'sample.wav').read_bytes())
  assert sounds[0] != sounds[1]


def test_a_stage_needs_a_bundle(demo_clip, weights, tmp_path):
  with pytest.raises(errors.ConfigError, match='bundle is not set'):
    ClipSampler(str(demo_clip))(described(), weights, tmp_path)


def other_streams():
  semantic = small.make_stages(small.make_codec())[0][0].target.stream
  return {'target': Target(dataclasses.replace(semantic, codes=24))}


@pytest.mark.parametrize('changed', [{'name': 'melody'}, other_streams()], ids=['name', 'streams'])
def test_a_stage_that_the_bundle_does_not_have_is_told(sampler, weights, tmp_path, changed):
  about = described(**changed)
  with pytest.raises(errors.ConfigError, match='with the same streams, so no sample can be made'):
    sampler(about, weights, tmp_path)
  assert not list(tmp_path.iterdir())


# Within a run.


class Sum:
  """Adds up its batches."""

  layout, microbatches = 'unrolled', 1

  def __init__(self, about):
    self.about = about

  def with_layout(self, layout):
    return self

  def init(self, rng, batch):
    return {'sum': jnp.zeros(2), 'other': jnp.ones(3)}

  def step(self, state, batch, rng):
    return state | {'sum': state['sum'] + batch['x'].sum()}, {'loss': batch['x'].mean()}

  def evaluate(self, state, batch):
    return {'loss': state['sum'][0], 'weight': jnp.float32(1)}

  def tokens(self, batch):
    return 1

  def flops(self, batch):
    return None

  def describe(self):
    return self.about

  def weights(self, state):
    return {'sum': state['sum']}


class Ones:
  batch_size = 2

  def describe(self):
    return {}

  def start(self, position, rows=None):
    while True:
      yield {'x': np.ones(2, np.float32)}


def train(run_dir, sampler, about=None, **changed):
  settings = {'total_steps': 7, 'sample_every': 3, 'batches': Ones()}
  made = Sum(about or {'kind': 'sum'})
  return loop.train(run_dir=run_dir, trainable=made, sampler=sampler, **(settings | changed))


def test_a_run_hands_over_its_weights_every_so_many_steps(tmp_path):
  seen = []

  def sampler(about, weights, directory):
    assert directory.is_dir() and type(weights['sum']) is np.ndarray
    seen.append((about, weights.keys(), weights['sum'].tolist(), directory.name))

  train(tmp_path, sampler)
  about, names = {'kind': 'sum'}, {'sum': 0}.keys()
  assert seen == [(about, names, [2.0 * n] * 2, f'step_{n}') for n in (3, 6, 7)]
  train(tmp_path / 'never', sampler, sample_every=0, total_steps=2)
  assert len(seen) == 4  # but at the end


@pytest.mark.parametrize('fault', ['no bundle', 'no stage', 'no clip', 'full disk'])
def test_a_sample_that_cannot_be_made_stops_nothing(tmp_path, small_bundle, demo_clip, fault):
  def full(about, weights, directory):
    raise OSError(28, 'No space left on device')

  sampler, told = {
    'no bundle': (ClipSampler(str(demo_clip)), 'bundle is not set'),
    'no stage': (ClipSampler(str(demo_clip), str(small_bundle)), "no stage 'melody'"),
    'no clip': (ClipSampler(str(tmp_path / 'gone.mp4'), str(small_bundle)), 'gone.mp4'),
    'full disk': (full, 'No space left'),
  }[fault]
  about = described(**({'name': 'melody'} if fault == 'no stage' else {}))
  with pytest.warns(UserWarning, match='no sample was made') as warned:
    state = train(tmp_path / 'run', sampler, about)
  messages = [str(warning.message) for warning in warned if 'no sample' in str(warning.message)]
  assert len(messages) == 3 and all(told in message and '\n' not in message for message in messages)
  assert state['sum'].tolist() == [14, 14]


def test_tensorboard_shows_the_pictures_and_plays_the_sounds(tmp_path):
  accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator', reason='part of the extra "train"'
  )
  sound = np.round(3000 * np.sin(np.arange(800) / 9)).astype(np.int16)

  def sampler(about, weights, directory):
    from matplotlib import image

    soundfile.write(str(directory / 'sample.wav'), sound, 8000, subtype='PCM_16')
    image.imsave(str(directory / 'sample.png'), np.zeros((20, 30, 3)))
    (directory / 'notes.txt').write_text('neither')

  train(tmp_path, sampler)
  events = accumulator.EventAccumulator(str(tmp_path / 'events')).Reload()
  heard, seen = events.Audio('sample.wav'), events.Images('sample.png')
  assert [event.step for event in heard] == [event.step for event in seen] == [3, 6, 7]
  assert {(event.width, event.height) for event in seen} == {(30, 20)}
  again, rate = soundfile.read(io.BytesIO(heard[0].encoded_audio_string), dtype='int16')
  assert rate == heard[0].sample_rate == 8000
  np.testing.assert_array_equal(again, sound)
