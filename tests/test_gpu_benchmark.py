"""The benchmark of a GPU, all of it at the smallest size on this CPU."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import small

PARTS = ('parity', 'train', 'attention', 'decode', 'generate', 'codec', 'resume')


def run(out, *parts, **env):
  environment = os.environ | {
    'TINY': '1',
    'PATH': f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
  }
  command = ['bash', small.ROOT / 'tools' / 'bench_gpu.sh', out, *parts]
  return subprocess.run(command, env=environment | env, capture_output=True, text=True)


def rows(out, part):
  return [json.loads(line) for line in (out / f'{part}.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_every_part_leaves_its_rows_and_is_not_run_again(tmp_path):
  done = run(tmp_path, *PARTS)
  assert done.returncode == 0, done.stdout
  assert all('device' in row for part in PARTS for row in rows(tmp_path, part))
  assert all(row['again_same_bits'] and row['resumed_same_bits'] for row in rows(tmp_path, 'resume'))
  assert rows(tmp_path, 'parity')[0]['difference'] < 1e-5
  assert 'ours_ms' in rows(tmp_path, 'train')[0] and 'times_real_time' in rows(tmp_path, 'generate')[-1]
  before = {part: len(rows(tmp_path, part)) for part in PARTS}
  again = run(tmp_path, *PARTS)
  assert again.stdout.count('done before') == len(PARTS)
  assert {part: len(rows(tmp_path, part)) for part in PARTS} == before


def test_a_part_that_does_not_exist_is_told_and_fails(tmp_path):
  done = run(tmp_path, 'speed')
  assert done.returncode == 1 and 'speed: failed' in done.stdout
  assert 'there is no part speed' in (tmp_path / 'speed.log').read_text()
