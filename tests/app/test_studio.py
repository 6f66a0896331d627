"""Pieces made for strangers: limits, leaving early, one at a time."""

import contextlib
import json
import pathlib
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from media_files import write_video

from v2meow_jax import bundles, errors
from v2meow_jax.app.studio import Limits, Made, Studio, Working
from v2meow_jax.generation import results
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.media import loudness, probe


@pytest.fixture(scope='module')
def studio(small_bundle):
  loaded = bundles.load(small_bundle)
  return Studio(Pipeline.load(loaded), loaded.digest, Limits(seconds=5, minutes=1))


def sampling(studio):
  return {runner.stage.name: runner.sampling for runner in studio.pipeline.stages}


def test_a_piece_is_what_the_pipeline_makes_and_its_files_are_there_for_one_step(studio, demo_clip):
  wanted = Request(demo_clip, seed=3, duration=4)
  told = []
  for event in studio.make(wanted, sampling(studio)):
    told.append(event)
    if isinstance(event, Made):
      music, rate = soundfile.read(event.paths['wav'], dtype='float32', always_2d=True)
      about = json.loads(pathlib.Path(event.paths['json']).read_text())
      film = probe.probe(event.paths['mp4'])
  assert all(isinstance(event, Working) for event in told[:-1])
  made = told[-1]
  alone = studio.pipeline.generate_batch([wanted])[0]
  expected = loudness.normalize_loudness(alone.audio, rate)
  np.testing.assert_allclose(music, expected, atol=2**-15)  # 16 bits
  assert film.audio is not None and film.video.duration == pytest.approx(4, abs=0.2)
  assert about['request']['video'] == demo_clip.name and about['request']['seed'] == 3
  assert not any(pathlib.Path(path).exists() for path in made.paths.values())
  # Every stage was seen at its last window.
  assert {name for name, (done, total) in told[-2].parts.items() if done == total} >= set(sampling(studio))


@pytest.mark.parametrize(
  'width, height, rate, duration, reason',
  [
    (4096, 2306, 10, None, 'pixels'),
    (64, 48, 500, None, 'more than 240 frames a second'),
    (64, 48, 10, None, 'at most 5 s'),
    (64, 48, 10, 5.5, 'at most 5 s'),
  ],
)
def test_what_is_too_much_is_refused(studio, tmp_path, width, height, rate, duration, reason):
  seconds = {'pixels': 0.6, 'more than 240 frames a second': 2}.get(reason, 6)
  picture = np.zeros((height, width, 3), np.uint8)
  # The header says ten frames a second, whatever comes.
  path = write_video(tmp_path / 'a.mkv', range(round(seconds * rate)), Fraction(1, rate), picture=picture)
  with pytest.raises(errors.InputError, match=reason):
    next(studio.make(Request(path, duration=duration), sampling(studio)))


def test_a_long_style_recording_is_refused(studio, tmp_path):
  path = tmp_path / 'a.wav'
  soundfile.write(path, np.zeros(8000 * 6), 8000)
  with pytest.raises(errors.MediaError, match='more than 5 s'):
    studio.check(Request(None, style=path, duration=1))


@pytest.mark.parametrize('part', ['video/motion', 'fine'])
def test_left_early_no_more_is_done(studio, demo_clip, monkeypatch, part):
  written = []
  monkeypatch.setattr(results, 'write', lambda *args, **settings: written.append(args))
  before = threading.active_count()
  with contextlib.closing(studio.make(Request(demo_clip, duration=4), sampling(studio))) as events:
    next(event for event in events if part in event.parts)
  end = time.monotonic() + 20
  while threading.active_count() > before and time.monotonic() < end:
    time.sleep(0.05)
  assert threading.active_count() == before and not written


def test_left_early_the_work_ends_with_its_window_and_the_next_piece_waits_for_that(studio, demo_clip):
  wanted, before = Request(demo_clip, duration=5), threading.active_count()
  with contextlib.closing(studio.make(wanted, sampling(studio))) as events:
    for event in events:
      if 'semantic' in event.parts:
        break
  done = {name: event.parts[name] for name in sampling(studio) if name in event.parts}
  assert done != {name: (total, total) for name, (_, total) in done.items()} or len(done) < 3
  *_, made = studio.make(wanted, sampling(studio))
  assert isinstance(made, Made)
  end = time.monotonic() + 20
  while threading.active_count() > before and time.monotonic() < end:
    time.sleep(0.05)
  assert threading.active_count() == before


def test_pieces_are_made_one_after_the_other(studio, demo_clip, monkeypatch):
  running, most = [], []
  inner = studio.pipeline.generate_batch

  def watched(*args, **settings):
    running.append(1)
    most.append(len(running))
    try:
      return inner(*args, **settings)
    finally:
      running.pop()

  monkeypatch.setattr(studio.pipeline, 'generate_batch', watched)
  wanted = Request(demo_clip, duration=1)
  threads = [threading.Thread(target=lambda: list(studio.make(wanted, sampling(studio)))) for _ in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert most == [1, 1, 1]


def test_a_fault_reaches_whoever_waits(studio, demo_clip, monkeypatch):
  def fail(*args, **settings):
    raise errors.MemoryExhausted('too little memory; lower rows')

  monkeypatch.setattr(studio.pipeline, 'generate_batch', fail)
  with pytest.raises(errors.MemoryExhausted, match='lower rows'):
    list(studio.make(Request(demo_clip, duration=1), sampling(studio)))
