"""Generates on a mesh of four virtual devices; run by test_score in a process.

Arguments: the bundle, a video, and where to write the streams.
"""

import sys

import numpy as np

from v2meow_jax import Pipeline, Request
from v2meow_jax.partitioning import Partitioner

bundle, video, out = sys.argv[1:]
pipeline = Pipeline.load(bundle, partitioner=Partitioner((2, 1, 2)))
kernel = pipeline.stages[0].params['transformer']['layer_0']['up']['kernel']
assert kernel.addressable_shards[0].data.size == kernel.size // 2, kernel.sharding
requests = [Request(video, seed=3, duration=seconds) for seconds in (3.0, 0.9, 2.0)]
made = pipeline.generate_batch(requests)
np.savez(
  out, **{f'{n}|{name}': stream for n, piece in enumerate(made) for name, stream in piece.streams.items()}
)
