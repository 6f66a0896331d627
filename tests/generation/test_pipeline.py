"""The pipeline on a real clip with small untrained networks."""

from fractions import Fraction

import jax
import numpy as np
import pytest
from small import decode_crop

from v2meow_jax import errors
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.sampling import Sampling


@pytest.fixture(scope='module')
def pipeline(small_bundle):
  return Pipeline.load(small_bundle)


def batch_of(stage, streams, start):
  def read(stream, first, stop):
    return streams.get(stream.name, np.zeros((0, stream.width)))[first:stop]

  return {name: value[None] for name, value in stage.crop(read, start).items()}


@pytest.fixture(scope='module')
def made(pipeline, demo_clip):
  return pipeline.generate(str(demo_clip), seed=3, duration=4.5)


def test_every_stream_covers_the_clip_and_stays_in_its_vocabulary(made):
  assert made.streams['video/motion'].shape == (18, 14)
  assert made.streams['audio/semantic'].shape == (113, 1)  # ceil(4.5 x 25)
  assert made.streams['audio/acoustic'].shape == (113, 4)
  for name in ('audio/semantic', 'audio/acoustic'):
    assert made.streams[name].min() >= 0 and made.streams[name].max() < 16
  assert made.audio.shape == (36000, 1) and np.isfinite(made.audio).all()


def test_the_audio_is_the_codecs_decoding_of_the_tokens(pipeline, made):
  np.testing.assert_array_equal(made.audio, pipeline.codec.decode(made.streams['audio/acoustic'])[:36000])


def test_levels_that_no_stage_predicts_are_no_part_of_the_sound(pipeline, made, demo_clip):
  fewer = Pipeline(pipeline.encoders, pipeline.stages[:2], pipeline.codec)
  found = fewer.generate(str(demo_clip), seed=3, duration=4.5)
  codes = found.streams['audio/acoustic']
  np.testing.assert_array_equal(codes, made.streams['audio/acoustic'][:, :2])
  np.testing.assert_array_equal(found.audio, pipeline.codec.decode(codes)[:36000])
  padded = pipeline.codec.decode(np.pad(codes, ((0, 0), (0, 2))))[:36000]
  assert np.abs(padded - found.audio).max() > 0.01 * np.abs(found.audio).max()
  streamed = np.concatenate(list(fewer.stream(str(demo_clip), seed=3, duration=4.5)))
  np.testing.assert_allclose(streamed, found.audio, atol=1e-4 * np.abs(found.audio).max())


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_piece(pipeline, made, demo_clip):
  again = pipeline.generate(str(demo_clip), seed=3, duration=4.5)
  np.testing.assert_array_equal(again.audio, made.audio)
  other = pipeline.generate(str(demo_clip), seed=4, duration=4.5)
  assert (other.streams['audio/semantic'] != made.streams['audio/semantic']).mean() > 0.5


def test_a_window_is_continued_from_the_tail_of_the_one_before(pipeline, demo_clip):
  # Greedy: the second window, whose known frames are the first's tail, must repeat what a decode of
  # that window alone gives when it is handed that tail.
  sampling = {runner.stage.name: Sampling(temperature=0) for runner in pipeline.stages}
  made = pipeline.generate(str(demo_clip), duration=3.0, sampling=sampling)
  semantic = made.streams['audio/semantic']
  runner = pipeline.stages[0]
  batch = batch_of(runner.stage, made.streams, Fraction(1))
  keys = jax.random.key(0)[None]
  tokens = decode_crop(runner.model, runner.params, batch, semantic[None, 25:50], keys, Sampling(0))
  np.testing.assert_array_equal(tokens[0], semantic[25:75])


def test_a_window_is_given_what_a_training_crop_would_be(pipeline):
  stage = pipeline.stages[1].stage
  streams = {
    'video/motion': np.arange(40, dtype=np.float32)[:, None].repeat(14, 1),
    'audio/semantic': np.arange(250)[:, None] % 16,
  }
  batch = batch_of(stage, streams, Fraction(9))
  # 9 s is element 36 of 4 Hz, of which 4 of 8 are left, and element 225 of 25 Hz.
  assert batch['video/motion'][0, :, 0].tolist() == [36, 37, 38, 39, 0, 0, 0, 0]
  assert batch['video/motion/mask'][0].tolist() == [True] * 4 + [False] * 4
  assert batch['audio/semantic'][0, :, 0].tolist() == [n % 16 for n in range(225, 250)] + [0] * 25
  quarter = batch_of(stage, streams, Fraction(1, 4))
  # 6.25 elements are cut at 6, a hundredth of a second before the crop.
  assert float(quarter['audio/semantic/offset'][0]) == pytest.approx(6 / 25 - 0.25)


def test_a_clip_shorter_than_a_crop_is_filled_out_and_trimmed(pipeline, demo_clip):
  made = pipeline.generate(str(demo_clip), duration=0.9)
  assert made.audio.shape == (7200, 1)
  assert len(made.streams['audio/acoustic']) == 23


def test_stages_that_do_not_fit_are_refused(pipeline):
  first, second, third = pipeline.stages
  with pytest.raises(errors.BundleError, match='nothing before it makes'):
    Pipeline(pipeline.encoders, [second, third], pipeline.codec)
  with pytest.raises(errors.BundleError, match='nothing before it makes'):
    Pipeline([], [first, second, third], pipeline.codec)
  with pytest.raises(errors.BundleError, match='no stage predicts'):
    Pipeline(pipeline.encoders, [first], pipeline.codec)


def test_a_clip_of_too_little_video_is_refused(pipeline, demo_clip):
  with pytest.raises(errors.MediaError, match='too short'):
    pipeline.generate(str(demo_clip), duration=0.2)


def test_the_encoder_sees_the_same_frames_whatever_the_duration(pipeline, demo_clip):
  motion = pipeline.encoders[0]
  long = motion.encode_clip(MediaClip(str(demo_clip), None, 0.0, 6.0))
  short = motion.encode_clip(MediaClip(str(demo_clip), None, 0.0, 3.0))
  np.testing.assert_array_equal(long[:12], short)
