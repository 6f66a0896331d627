"""Gains under other conditions, with a scorer whose preference is known, and the choice of places."""

import dataclasses
from fractions import Fraction

import flax.linen as nn
import jax
import numpy as np
import pytest
import small

from v2meow_jax.evaluation import conditioning
from v2meow_jax.evaluation.kept import Kept
from v2meow_jax.models.runner import StageRunner
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

VIDEO = Stream('video/motion', 'embedding', Fraction(4), 1)
TOKENS = Stream('audio/semantic', 'tokens', Fraction(10), 1, 16)
STAGE = Stage('semantic', (Condition(VIDEO, dropout=0.1),), Target(TOKENS), 4)


@dataclasses.dataclass
class Clip:
  id: str
  source: str
  duration: float


class Data:
  """Videos that say the track and the time; nothing else is asked of a dataset."""

  directory = 'here'

  def __init__(self, tracks=6, seconds=20.0):
    self.clips = [Clip(f'{t}-{n}', f'track {t}', seconds) for t in range(tracks) for n in range(2)]

  def read(self, stream, clip, start=0, stop=None):
    count = int(self.clips[clip].duration * stream.rate)
    if stream.kind == 'tokens':
      return np.zeros((count, 1), np.uint16)[start:stop]
    return (100.0 * (clip // 2) + 30.0 * (clip % 2) + np.arange(count)[:, None] / 4)[start:stop]


def hearing(monkeypatch, cost):
  """Makes the scorer one whose nats a token are a function of the first video element, and of its mask."""

  def scorer(runner):
    def score(batch):
      value = np.where(batch['video/motion/mask'][:, 0], batch['video/motion'][:, 0, 0], np.nan)
      tokens = np.tile(batch['audio/semantic/mask'].reshape(len(value), 5, -1).sum(2), 1).astype(float)
      nats = cost(value)[:, None, None] * tokens[..., None]
      return nats, np.zeros_like(nats), tokens

    return score

  monkeypatch.setattr(conditioning, 'scorer', scorer)


@dataclasses.dataclass
class Runner:
  stage: Stage = STAGE


def test_a_stage_that_hears_only_the_track_gains_against_tracks_alone(monkeypatch):
  # Cost 1 whatever the moment, if the track's hundred is that of the own video.
  data, seen = Data(), {}

  def cost(value):
    first = seen.setdefault('own', []) if len(seen.get('own', [])) < 24 else None
    if first is not None:
      first.extend(value)
      return np.ones(len(value))
    start = seen.setdefault('at', 0) % 24
    seen['at'] += len(value)
    own = np.array(seen['own'][start : start + len(value)])
    return np.where(np.isnan(value), 3.0, np.where(value // 100 == own // 100, 1.0, 2.0))

  hearing(monkeypatch, cost)
  own, tracks, told = conditioning.measure(Runner(), data, crops=24, shift=2.0)
  found = told['video/motion']
  assert found['moment']['gain']['value'] == 0 and found['shifted']['gain']['value'] == 0
  assert found['track']['gain']['value'] == pytest.approx(1) and found['track']['wins']['value'] == 1
  assert found['none']['gain']['value'] == pytest.approx(2)
  assert found['track']['gain']['count'] == 6 and len(found['track']['places']) == 5
  assert own.tokens.sum() == 24 * 40 and len(tracks) == 24


def test_places_are_what_they_say():
  places = conditioning.Places(Data(), STAGE, seed=3)
  chosen = places.choose(24)
  assert sorted({crop.track for crop in chosen[:6]}) == [f'track {n}' for n in range(6)]
  for crop in chosen:
    assert 0 <= crop.start <= 16 and (crop.start * 4).denominator == 1
    moved = places.shifted(crop, 2.0)
    assert moved.clip == crop.clip and abs(moved.start - crop.start) == 2 and 0 <= moved.start <= 16
    moment = places.moment(crop)
    assert moment.track == crop.track
    assert moment.clip != crop.clip or abs(moment.start - crop.start) >= 3
    assert places.other(crop).track != crop.track
  again = conditioning.Places(Data(), STAGE, seed=3)
  assert again.choose(24) == chosen and again.other(chosen[5]) == places.other(chosen[5])


def test_anothers_condition_stands_where_the_own_one_did():
  """An alignment that no crop has would be what the stage is judged by, and not the condition."""
  events = Stream('video/events', 'embedding', Fraction(10), 1)
  stage = Stage('semantic', (Condition(VIDEO), Condition(events, placement='aligned')), Target(TOKENS), 4)
  data, moved = Data(), 0
  places = conditioning.Places(data, stage, seed=3)
  for crop in places.choose(12):
    one, two = (conditioning.read(data, stage.streams, at, 4) for at in (crop, places.other(crop)))
    assert one['video/events/offset'] == one['audio/semantic/offset']  # in step
    changed = conditioning.exchanged(one, two, ['video/events'])
    np.testing.assert_array_equal(changed['video/events'], two['video/events'])
    assert changed['video/events/offset'] == changed['audio/semantic/offset']
    moved += one['video/events/offset'] != two['video/events/offset']
  assert moved > 3  # or else nothing is shown


def test_a_single_short_track_has_no_others(monkeypatch):
  data = Data(tracks=1, seconds=4.0)
  data.clips = data.clips[:1]
  hearing(monkeypatch, lambda value: np.where(np.isnan(value), 2.0, 1.0))
  _, _, told = conditioning.measure(Runner(), data, crops=4)
  found = told['video/motion']
  assert [found[kind]['gain']['value'] for kind in conditioning.OTHERS] == [None, None, None, 1.0]
  assert found['none']['gain']['interval'] == [None, None]


def test_the_scorer_sums_what_the_stage_scores():
  stage, config = small.make_stages(small.make_codec())[1]
  batch = small.random_batch(stage, 2)
  name = stage.target.stream.name
  batch[f'{name}/mask'] = batch[f'{name}/mask'] & (np.arange(stage.frames) < 33)
  model = StageModel(stage, config)
  params = nn.unbox(jax.jit(model.init)(jax.random.key(0), small.zero_batch(stage))['params'])
  nats, hits, tokens = conditioning.scorer(StageRunner(model, params, Sampling()))(batch)
  wanted = -np.asarray(StageTrainable(stage, config, None).score_batch(params, batch))
  np.testing.assert_allclose(nats.sum((1, 2)), wanted.sum((1, 2)), rtol=1e-4)
  # 50 frames in fifths of ten
  np.testing.assert_allclose(nats[:, 2], wanted[:, 20:30].sum(1), rtol=1e-4)
  assert tokens.tolist() == [[10, 10, 10, 3, 0]] * 2 and (hits <= tokens[..., None]).all()


def test_scores_are_made_once_whoever_is_killed_or_shares_the_work(tmp_path):
  batches = [{'x': np.full((4, 3), n), 'y/mask': np.ones((4, 3), bool)} for n in range(7)]
  calls = []

  def score(batch):
    if len(calls) == 3 and 'killed' not in calls:
      calls.append('killed')
      raise KeyboardInterrupt
    calls.append(int(batch['x'][0, 0]))
    return np.full((4, 5, 2), batch['x'][0, 0] + 0.25), np.zeros((4, 5, 2)), np.ones((4, 5))

  def run(folder, shard=(0, 1), about='a'):
    scored = conditioning.remembered(score, 2, Kept(tmp_path / folder), {'stage': about}, shard)
    return [scored(batch)[0] for batch in batches]

  with pytest.raises(KeyboardInterrupt):
    run('one')
  found = run('one')
  assert calls == [0, 1, 2, 'killed', 3, 4, 5, 6]
  np.testing.assert_array_equal(np.stack(found)[:, 0, 0, 0], np.arange(7) + 0.25)
  calls[:] = ['killed']
  run('two', (0, 2))
  run('two', (1, 2))
  assert calls == ['killed', 0, 2, 4, 6, 1, 3, 5]
  np.testing.assert_array_equal(run('two'), found)
  assert len(calls) == 8
  run('two', about='another stage')
  assert len(calls) == 15
