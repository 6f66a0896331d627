"""Saving, evaluating and logging by the clock."""

import json

import pytest
from test_loop import train

from v2meow_jax import errors
from v2meow_jax.training import loop
from v2meow_jax.training.checkpoints import Checkpoints
from v2meow_jax.training.run import Settings


def lines(run_dir, split):
  rows = map(json.loads, (run_dir / 'metrics.jsonl').read_text().splitlines())
  return [row['step'] for row in rows if row['split'] == split]


def test_what_the_clock_says_is_done_besides_what_the_steps_say(tmp_path, monkeypatch):
  now = [0.0]

  class Clock:
    @staticmethod
    def monotonic():
      now[0] += 10.0  # seconds, a look; the loop looks once a step
      return now[0]

  monkeypatch.setattr(loop, 'time', Clock)
  never = {'log_every': 0, 'eval_every': 0, 'checkpoint_every': 0, 'keep': 100}
  train(tmp_path, log_minutes=1, eval_minutes=2, checkpoint_minutes=1.5, **never)
  # Asked for by a step, done when its metrics are seen, two steps later: every 6, 12 and 9 steps.
  assert lines(tmp_path, 'train') == [8, 14, 20, 24]
  assert lines(tmp_path, 'validation') == [14, 24]
  assert sorted(Checkpoints(tmp_path)._manager.all_steps()) == [11, 20, 24]


def test_a_timer_asks_once_an_interval(monkeypatch):
  monkeypatch.setattr(loop.time, 'monotonic', lambda: now)
  now = 0.0
  timers = loop.Timers((1.0, 0.0, 2.0))
  asked = []
  for now in (59.0, 60.0, 61.0, 119.0, 120.0, 121.0):  # noqa: B007 (the clock reads it)
    asked.append(timers.ask())
  assert asked == [0, 1, 0, 0, 5, 0]


def test_negative_minutes_are_refused():
  with pytest.raises(errors.ConfigError, match='no interval negative'):
    Settings(10, eval_minutes=-1.0)
