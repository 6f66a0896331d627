"""Generates on a mesh of four virtual devices; run by test_score in a process.

Arguments: the bundle, a video, and where to write the streams and teacher-forced logits.
"""

import pathlib
import sys

import numpy as np

from v2meow_jax import Pipeline, Request
from v2meow_jax.partitioning import Partitioner

bundle, video, out = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import small  # noqa: E402

partitioner = Partitioner((2, 1, 2))
pipeline = Pipeline.load(bundle, partitioner=partitioner)
kernel = pipeline.stages[0].params['transformer']['layer_0']['up']['kernel']
assert kernel.addressable_shards[0].data.size == kernel.size // 2, kernel.sharding
requests = [Request(video, seed=3, duration=seconds) for seconds in (3.0, 0.9, 2.0)]
made = pipeline.generate_batch(requests)
streams = {f'{n}|{name}': stream for n, piece in enumerate(made) for name, stream in piece.streams.items()}
logits = {
  runner.stage.name: partitioner.jit(runner.model.apply)(
    {'params': runner.params}, partitioner.shard(small.random_batch(runner.stage, 4))
  )
  for runner in pipeline.stages
}
np.savez(out, **streams, **logits)
