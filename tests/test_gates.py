"""The gates of tools/gates.py on reports that pass and that fail."""

import json
import subprocess
import sys

import pytest
import small

CODEC = {'agreement': {'shift of 1 sample': {'value': 0.99}, 'polarity': {'value': 1.0}}}


def stage(loss=3.0, low=0.01):
  return {
    'validation': {'levels': {'0': {'nats_a_token': {'value': loss}}, '1': {'nats_a_token': {'value': 5.0}}}},
    'bigram': {'levels': [4.5, 5.0]},
    'conditions': {'video/motion': {'moment': {'gain': {'interval': [low, 0.3]}}}, 'audio/pulse': {}},
  }


def music(tonality=30.0, pulse=0.3):
  def row(name, value, low, high):
    return {'metric': name, 'ways': {'made': {'value': value}}, 'range': {'low': low, 'high': high}}

  return {'table': [row('tonality', tonality, 28.0, 34.0), row('pulse', pulse, 0.2, 0.5)]}


def run(tmp_path, report, *args):
  path = tmp_path / 'report.json'
  path.write_text(json.dumps(report))
  command = [sys.executable, str(small.ROOT / 'tools' / 'gates.py'), args[0], str(path), *args[1:]]
  done = subprocess.run(command, capture_output=True, text=True, cwd=small.ROOT, check=False)
  return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
  ('report', 'args', 'status', 'words'),
  [
    (CODEC, ['codec'], 0, 'passes'),
    ({'agreement': CODEC['agreement'] | {'polarity': {'value': 0.9}}}, ['codec'], 3, 'polarity: 0.900'),
    ({'stages': {'acoustic': stage()}}, ['stage', 'acoustic'], 0, 'level 0: 1.500'),
    ({'stages': {'acoustic': stage(loss=3.6)}}, ['stage', 'acoustic'], 3, 'FAILS: nats below the bigram'),
    ({'stages': {'pulse': stage(loss=4.4, low=-0.01)}}, ['stage', 'pulse'], 3, 'video/motion over another'),
    ({'stages': {'pulse': stage(loss=4.4)}}, ['stage', 'pulse'], 0, 'passes'),
    ({'stages': {'pulse': stage(low=None)}}, ['stage', 'pulse'], 3, 'FAILS'),  # too few tracks to say
    (music(), ['music'], 0, 'tonality of what was made: 30.000, to be between 28.000 and 34.000'),
    (music(pulse=0.1), ['music'], 3, 'FAILS: pulse'),
    (music(tonality=40.0), ['music'], 3, 'FAILS: tonality'),
    (music(tonality=None), ['music'], 3, 'FAILS: tonality'),
    ({'table': [dict(row, range=None) for row in music()['table']]}, ['music'], 2, 'fewer than four films'),
    ({'table': []}, ['music'], 2, 'not the report that is meant'),
    ({}, ['codec'], 2, 'not the report that is meant'),
  ],
)
def test_a_gate_says_whether_to_go_on(tmp_path, report, args, status, words):
  found, told = run(tmp_path, report, *args)
  assert found == status and words in told
