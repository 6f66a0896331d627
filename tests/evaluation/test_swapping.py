"""Music of later stages, the earlier ones being given the truth."""

import dataclasses

import numpy as np
import pytest
import soundfile

from v2meow_jax.evaluation import swapping
from v2meow_jax.evaluation.subjects import Piece
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.generation.tasks import Task
from v2meow_jax.media.clip import MediaClip


def test_stages_that_are_given_the_truth_make_nothing(small_bundle, demo_clip, tmp_path):
  pipeline = Pipeline.load(small_bundle)
  assert swapping.ways(pipeline) == {'truth up to semantic': 1, 'truth up to coarse': 2}
  task = Task('a', Request(demo_clip, duration=3.0))
  piece = Piece('a', tmp_path / 'a.wav', demo_clip, demo_clip)
  seen = []
  generate = pipeline.generate_batch

  def watched(requests, **more):
    made = generate(requests, **more)
    seen.append((more['known'][0], made[0]))
    return made

  pipeline.generate_batch = watched
  chosen = {'together': 2, 'progress': lambda name, done, total: None}
  swapping.make(pipeline, 'digest', [(task, piece)], tmp_path, **chosen)
  clip = MediaClip(None, str(demo_clip), 0.0, 3.0)
  semantic, acoustic = (encoder.encode_clip(clip) for encoder in pipeline.token_encoders)
  for known, made in seen:
    np.testing.assert_array_equal(made.streams['audio/semantic'], semantic)
    assert 'coarse' not in known or (made.streams['audio/acoustic'][:, :2] == acoustic[:, :2]).all()
  first, second = (made.streams['audio/acoustic'] for _, made in seen)
  assert (first[:, :2] != second[:, :2]).any()  # its own coarse tokens, and the truth's
  found = swapping.pieces(pipeline, [piece], tmp_path)
  for pieces in found.values():
    sound, rate = soundfile.read(pieces[0].made)
    assert len(sound) / rate == pytest.approx(3)
  swapping.make(pipeline, 'digest', [(task, piece)], tmp_path, **chosen)
  assert len(seen) == 2  # nothing is made twice
  other = dataclasses.replace(task, request=Request(demo_clip, duration=3.0, seed=1))
  swapping.make(pipeline, 'digest', [(other, piece)], tmp_path, **chosen)
  assert len(seen) == 4
