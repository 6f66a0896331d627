"""Several pieces at once, in parts, from a beginning, on several devices: always the same music."""

import dataclasses
import os
import pathlib
import subprocess
import sys
from fractions import Fraction

import jax
import numpy as np
import pytest
import small
import soundfile

from v2meow_jax import errors
from v2meow_jax.encoders import motion
from v2meow_jax.generation import decode, score
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.sampling import Sampling


@pytest.fixture(scope='module')
def pipeline(small_bundle):
  return Pipeline.load(small_bundle)


@pytest.fixture(scope='module')
def requests(demo_clip):
  return [
    Request(demo_clip, seed=3, duration=4.5),
    Request(demo_clip, seed=4, duration=0.9),
    Request(demo_clip, seed=3, duration=3.0),
  ]


# The fine stage's windows do not depend on each other.
SAMPLING = {'fine': Sampling(overlap=0.0), 'coarse': Sampling(top_k=5)}


@pytest.fixture(scope='module')
def alone(pipeline, requests):
  return [pipeline.generate_batch([wanted], sampling=SAMPLING)[0] for wanted in requests]


def test_a_piece_does_not_depend_on_what_is_made_beside_it(pipeline, requests, alone):
  for together, single in zip(pipeline.generate_batch(requests, sampling=SAMPLING), alone, strict=True):
    for name, stream in single.streams.items():
      np.testing.assert_array_equal(together.streams[name], stream)
    np.testing.assert_allclose(together.audio, single.audio, atol=1e-6)


def test_a_longer_piece_begins_as_a_shorter_one_of_the_same_seed(alone):
  # Up to where the shorter one's last window was moved back to.
  assert len(alone[2].streams['audio/semantic']) == 75
  longer, shorter = (made.streams['audio/semantic'][:50] for made in (alone[0], alone[2]))
  np.testing.assert_array_equal(longer, shorter)


def test_fewer_rows_at_once_give_the_same_tokens(small_bundle, requests, alone):
  narrow = Pipeline.load(small_bundle, rows=1)
  made = narrow.generate_batch(requests[:1], sampling=SAMPLING)[0]
  np.testing.assert_array_equal(made.streams['audio/acoustic'], alone[0].streams['audio/acoustic'])


def test_blocks_of_a_stream_are_the_whole_and_come_early(pipeline, requests, alone):
  windows = []
  blocks, seen = [], []
  for block in pipeline.stream_request(
    requests[0], sampling=SAMPLING, progress=lambda *done: windows.append(done[0])
  ):
    blocks.append(block)
    seen.append(len(windows))
  # Sums in another order.
  np.testing.assert_allclose(np.concatenate(blocks), alone[0].audio, atol=1e-5)
  assert len(blocks) > 3
  # The first needs one window of every stage and no more.
  assert sorted(windows[: seen[0]]) == ['coarse', 'fine', 'semantic']


def test_a_stream_reads_the_video_no_further_than_its_next_block_needs(pipeline, requests, monkeypatch):
  seen = []
  measure = motion.MotionEncoder.measure
  monkeypatch.setattr(motion, 'PIECE', 1)
  monkeypatch.setattr(
    motion.MotionEncoder, 'measure', lambda self, frames: (seen.append(frames), measure(self, frames))[1]
  )
  blocks = pipeline.stream_request(requests[0], sampling=SAMPLING)
  next(blocks)
  # The longest crop of the stages is 2 s, the encoder's rate 4 Hz; the piece has 18 elements.
  assert 4 <= len(seen) <= 8
  list(blocks)
  assert len(seen) == 18


def test_a_beginning_is_kept_and_gone_on_with(pipeline, demo_clip, alone, tmp_path):
  from v2meow_jax.media import audio

  audio.write_wav(tmp_path / 'x.wav', np.random.default_rng(0).normal(0, 0.1, (12000, 1)), 8000)
  made = pipeline.generate(
    demo_clip, duration=3.0, seed=3, beginning=tmp_path / 'x.wav', beginning_seconds=1.1, sampling=SAMPLING
  )
  sound, _ = audio.load_audio(tmp_path / 'x.wav', 8000, duration=1.1)
  for encoder in pipeline.token_encoders:
    own = encoder.encode(sound if encoder is pipeline.codec else sound[:, 0])[:28]
    np.testing.assert_array_equal(made.streams[encoder.stream.name][: len(own)][:27], own[:27])
  rest = made.streams['audio/semantic'][28:]
  assert rest.shape == (47, 1) and (rest != alone[2].streams['audio/semantic'][28:]).any()


def test_a_beginning_longer_than_the_piece_leaves_nothing_to_do(pipeline, demo_clip):
  made = pipeline.generate(demo_clip, duration=1.0, beginning=demo_clip)
  assert made.audio.shape == (8000, 1)


def test_guidance_changes_the_music_and_knobs_do_not_compile(pipeline, demo_clip):
  asked = {'duration': 1.0, 'seed': 1}
  runs = [
    pipeline.generate(demo_clip, **asked, sampling={'semantic': Sampling(t, guidance=(('video', scale),))})
    for t, scale in ((1.0, 1.5), (0.9, 30.0))
  ]
  plain = pipeline.generate(demo_clip, **asked)
  tokens = [run.streams['audio/semantic'] for run in (*runs, plain)]
  assert (tokens[0] != tokens[1]).any() and (tokens[1] != tokens[2]).any()
  before = decode.compiled.jitted._cache_size()
  pipeline.generate(
    demo_clip, duration=1.0, sampling={'semantic': Sampling(temperature=0.7, guidance=(('video', 7.0),))}
  )
  assert decode.compiled.jitted._cache_size() == before


def test_music_without_a_video_needs_models_that_know_it(small_bundle, pipeline):
  # The coarse stage was always given the video.
  with pytest.raises(errors.ConfigError, match=r"'coarse' was trained with video/motion always there"):
    pipeline.generate(duration=1.0)
  loaded = Pipeline.load(small_bundle)
  for n, runner in enumerate(loaded.stages):
    conditions = tuple(dataclasses.replace(c, dropout=0.1) for c in runner.stage.conditions)
    stage = dataclasses.replace(runner.stage, conditions=conditions)
    model = runner.model.clone(stage=stage)
    loaded.stages[n] = dataclasses.replace(runner, model=model)
  made = loaded.generate(duration=1.0, seed=1)
  assert made.audio.shape == (8000, 1) and 'video/motion' not in made.streams


def test_the_estimate_counts_the_steps_that_are_run(pipeline, requests, monkeypatch):
  counted = dict.fromkeys(('semantic', 'coarse', 'fine'), 0)
  generate = pipeline._generate

  def counting(model, *rest, prefilled, candidates):
    stage, stop = model.stage, rest[5]
    per = stage.target.depth if stage.target.pattern == 'flatten' else 1
    counted[stage.name] += per * (int(stop) - prefilled)
    if per == 1 and not prefilled:
      counted[stage.name] += stage.target.depth - 1
    return generate(model, *rest, prefilled=prefilled, candidates=candidates)

  told = pipeline.estimate(requests, SAMPLING)
  monkeypatch.setattr(pipeline, '_generate', counting)
  pipeline.generate_batch(requests, sampling=SAMPLING)
  # Pieces whose last window is moved back share it with others' whole ones, so the count is from above.
  for name, steps in told.steps.items():
    assert 0.8 * steps <= counted[name] <= 1.2 * steps
  weights = sum(leaf.nbytes for runner in pipeline.stages for leaf in jax.tree.leaves(runner.params))
  assert weights < told.memory < 10 * weights
  assert 'about' in str(told) and 'semantic' in str(told)


@pytest.mark.slow
def test_bfloat16_is_near_float32(small_bundle, demo_clip):

  pipelines = [Pipeline.load(small_bundle, dtype=dtype) for dtype in ('float32', 'bfloat16')]
  made = pipelines[0].generate(demo_clip, duration=2.0)
  for exact, rough in zip(*(p.stages for p in pipelines), strict=True):

    def read(stream, first, stop):
      return made.streams[stream.name][first:stop]

    example = exact.stage.crop(read, Fraction(0))
    batch = {name: value[None] for name, value in example.items()}
    logits = [np.asarray(r.model.apply({'params': r.params}, batch)) for r in (exact, rough)]
    # Untrained: logits differ by about one.
    assert np.abs(logits[0] - logits[1]).max() < 0.15 < np.abs(logits[0]).max()


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({'seed': -1}, 'seed -1'),
    ({'prompt': '  '}, 'the prompt is empty'),
    ({'prompt': 'x' * 3000}, '3000 characters'),
    ({'prompt': 'a', 'style': 'b.wav'}, 'exclude each other'),
    ({'duration': float('nan')}, 'duration'),
    ({'beginning_seconds': 0.0}, 'beginning_seconds'),
  ],
)
def test_requests_that_make_no_sense(settings, words):
  with pytest.raises(errors.ConfigError, match=words):
    Request('x.mp4', **settings)


def test_reading_is_told_and_what_that_raises_ends_it(pipeline, requests):
  told = []
  pipeline.generate_batch(requests[1:2], progress=lambda *args: told.append(args))
  names = [name for name, *_ in told]
  assert names[0] == 'video/motion' and {'semantic', 'coarse', 'fine'} <= set(names)
  assert all(done <= total for _, done, total in told)

  def refuse(*_):
    raise InterruptedError

  with pytest.raises(InterruptedError):
    pipeline.generate_batch(requests, progress=refuse)


def test_a_batch_holds_no_more_than_one_file_open(pipeline, demo_clip):
  folder, most = pathlib.Path('/proc/self/fd'), []
  if not folder.exists():
    pytest.skip('this system does not show open files')

  def count(*_):
    most.append(sum(str(demo_clip) == os.readlink(path) for path in folder.iterdir() if path.is_symlink()))

  pipeline.generate_batch([Request(demo_clip, seed=n, duration=0.9) for n in range(3)], progress=count)
  assert max(most) <= 1


def test_a_recording_of_hours_is_refused(pipeline, demo_clip, tmp_path):
  path = tmp_path / 'long.flac'
  soundfile.write(path, np.zeros(1000 * 3700, np.int16), 1000)
  with pytest.raises(errors.MediaError, match='more than an hour'):
    pipeline.generate(demo_clip, beginning=path, duration=1)
  assert (
    pipeline.generate(demo_clip, beginning=path, beginning_seconds=0.5, duration=1).audio.shape[0] == 8000
  )


def test_a_prompt_for_models_that_read_none(pipeline, demo_clip):
  with pytest.raises(errors.ConfigError, match='not trained with a style condition'):
    pipeline.generate(demo_clip, prompt='スローなジャズ 🎷')
  with pytest.raises(errors.ConfigError, match='a duration is needed'):
    pipeline.generate()


def test_memory_that_runs_out_is_told_in_a_sentence(pipeline, demo_clip, monkeypatch):
  def full(*_, **__):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes')

  monkeypatch.setattr(pipeline, '_generate', full)
  with pytest.raises(errors.MemoryExhausted, match='fewer rows'):
    pipeline.generate(demo_clip, duration=1.0)


def logits_of(runner, rows, each=None):
  """Teacher-forced, of all rows at once or of `each` at a time."""
  batch, apply = small.random_batch(runner.stage, rows), jax.jit(runner.model.apply)
  each = each or rows
  parts = [{name: value[i : i + each] for name, value in batch.items()} for i in range(0, rows, each)]
  return np.concatenate([apply({'params': runner.params}, part) for part in parts])


@pytest.mark.parametrize('place', [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_logits_do_not_depend_on_the_batch_size(pipeline, place):
  runner = pipeline.stages[place]
  together = logits_of(runner, rows=8)
  assert together.std() > 0.1
  for each in (1, 2):
    np.testing.assert_allclose(logits_of(runner, rows=8, each=each), together, atol=1e-4)


@pytest.mark.slow
def test_a_mesh_gives_the_same_tokens(pipeline, small_bundle, demo_clip, tmp_path):
  program = pathlib.Path(__file__).with_name('sharded_program.py')
  flags = os.environ | {'JAX_NUM_CPU_DEVICES': '4'}
  done = subprocess.run(
    [sys.executable, program, small_bundle, demo_clip, tmp_path / 'made.npz'],
    capture_output=True, text=True, env=flags,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  found = np.load(tmp_path / 'made.npz')
  requests = [Request(demo_clip, seed=3, duration=seconds) for seconds in (3.0, 0.9, 2.0)]
  for n, piece in enumerate(pipeline.generate_batch(requests)):
    for name, stream in piece.streams.items():
      np.testing.assert_array_equal(found[f'{n}|{name}'], stream)
  for runner in pipeline.stages:
    np.testing.assert_allclose(found[runner.stage.name], logits_of(runner, rows=4), atol=1e-4)


def test_windows_have_keys_of_seed_video_stage_and_number():
  """Bits that pieces made before hang on."""
  seeds, marks, windows = [3, 2**31 + 7, 3], [2**32 - 5, None, None], [0, 2, 1]
  made = score._folded(
    np.asarray(seeds, np.uint32),
    np.asarray([mark or 0 for mark in marks], np.uint32),
    np.asarray([mark is not None for mark in marks]),
    np.uint32(0xDEADBEEF),
    np.asarray(windows, np.uint32),
  )
  for key, seed, mark, window in zip(made, seeds, marks, windows, strict=True):
    wanted = jax.random.key(seed)
    wanted = wanted if mark is None else jax.random.fold_in(wanted, mark)
    wanted = jax.random.fold_in(jax.random.fold_in(wanted, 0xDEADBEEF), window)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(wanted))
