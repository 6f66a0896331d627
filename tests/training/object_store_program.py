"""Trains and reads data on a fake object store; run by test_object_store in a process of its own.

Arguments: a prepared dataset on disk. Prints JSON of what was found.
"""

import json
import pathlib
import sys

import object_store

object_store.begin()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from etils import epath  # noqa: E402
from test_loop import train  # noqa: E402

from v2meow_jax.data.batches import ClipBatches  # noqa: E402
from v2meow_jax.streams import Stream  # noqa: E402
from v2meow_jax.training.checkpoints import restore_arrays  # noqa: E402

found = {}


def same(one, other) -> bool:
  return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), one, other)))


local = pathlib.Path(sys.argv[2])
expected = jax.device_get(train(local))
run = epath.Path('gs://bucket/runs/one')
train(run, total_steps=12)
train(run, total_steps=22)
# A save that was cut off before its last object, the mark of a complete one, was written.
(run / 'checkpoints' / '22' / 'commit_success.txt').unlink()
found['step'] = restore_arrays(run)[1]
found['same'] = same(jax.device_get(train(run)), expected)
found['files'] = sorted(path.name for path in run.iterdir())
found['events'] = sum(path.stat().length for path in (run / 'events').iterdir())
lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
found['lines'] = [line['step'] for line in lines if line['split'] == 'train']

dataset = pathlib.Path(sys.argv[1])
remote = epath.Path('gs://bucket/ds')
for path in dataset.rglob('*'):
  if path.is_file():
    (remote / str(path.relative_to(dataset))).write_bytes(path.read_bytes())
streams = (Stream('audio/semantic', 'tokens', 25, 1, 16), Stream('video/motion', 'embedding', 4, 14))
batches = [next(ClipBatches(str(where), streams, 2, 8).start(5)) for where in (dataset, remote)]
found['data'] = same(*batches) and len(batches[0]['audio/semantic']) == 8
found['refused'] = object_store.refused
print(json.dumps(found))
