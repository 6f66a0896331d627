"""A run and a dataset on an object store, which renames nothing and appends nothing."""

import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def test_a_run_and_its_data_live_on_an_object_store(small_dataset, tmp_path):
  done = subprocess.run(
    [sys.executable, HERE / 'object_store_program.py', small_dataset, tmp_path / 'local'],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': f'{HERE}:{HERE.parent}'},
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  assert found['refused'] == []
  assert found['same']  # stopped twice, once in the middle of a save, and yet the bits of a local run
  assert found['step'] == 20
  assert found['lines'] == [4, 8, 12, 16, 20, 24]
  assert {'checkpoints', 'metrics.jsonl', 'model.json', 'events'} <= set(found['files'])
  assert found['events'] > 0
  assert found['data']
