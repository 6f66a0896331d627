"""Meshes of virtual devices give what one device gives, with parameters really split."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np, optax
sys.path.insert(0, sys.argv[1])
import small
from v2meow_jax import errors
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.partitioning import Partitioner

stage, config = small.make_stages(small.make_codec())[0]
trainable = StageTrainable(stage, config, optax.adam(1e-2))
rng = np.random.default_rng(0)
batch = {}
for name, value in small.zero_batch(stage).items():
  shape = (8, *value.shape[1:])
  kinds = {"i": rng.integers(0, 16, shape), "f": rng.standard_normal(shape), "b": np.ones(shape, bool)}
  batch[name] = kinds[value.dtype.kind].astype(value.dtype)
found = {}
for shape in json.loads(sys.argv[2]):
  part = Partitioner(tuple(shape))
  part.check_batch(8)
  state, shardings = part.init(trainable.init, jax.random.key(0), batch)
  step = jax.jit(trainable.step, donate_argnums=0, out_shardings=(shardings, None))
  losses = []
  for n in range(5):
    state, metrics = step(state, part.shard(batch), jax.random.key(n))
    losses.append(float(metrics["loss"]))
  up = state["params"]["transformer"]["layer_0"]["up"]["kernel"]
  moment = state["opt_state"][0].mu["transformer"]["layer_0"]["up"]["kernel"]
  found[str(shape)] = {"losses": losses, "spec": list(up.sharding.spec), "moment": list(moment.sharding.spec),
                       "piece": up.addressable_shards[0].data.shape}
for shape, size in (((3, 1, 1), 8), ((-1, -1, 1), 8), ((-1, 0, 1), 8), ((8, 1, 1), 6)):
  try:
    Partitioner(shape).check_batch(size)
    found[str(shape)] = "accepted"
  except errors.ConfigError as error:
    found[str(shape)] = str(error)
print(json.dumps(found))
"""


def run(devices: int, shapes: list) -> dict:
  flags = f'--xla_force_host_platform_device_count={devices}'
  done = subprocess.run(
    [sys.executable, '-c', CODE, os.path.dirname(__file__), json.dumps(shapes)],
    capture_output=True,
    text=True,
    env=os.environ | {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def found():
  return run(1, [[-1, 1, 1]]), run(8, [[-1, 1, 1], [2, 2, 2], [1, 4, 2]])


def test_losses_equal_those_of_one_device(found):
  one, many = found
  expected = one['[-1, 1, 1]']['losses']
  assert expected[0] > expected[-1]
  for shape in ('[-1, 1, 1]', '[2, 2, 2]', '[1, 4, 2]'):
    # float32 sums in another order.
    assert many[shape]['losses'] == pytest.approx(expected, rel=1e-5)


def test_parameters_and_moments_are_split_by_their_logical_axes(found):
  _, many = found
  split = many['[2, 2, 2]']
  assert split['spec'] == split['moment'] == ['fsdp', 'tensor']
  assert split['piece'] == [8, 16] and many['[-1, 1, 1]']['piece'] == [16, 32]


def test_meshes_and_batches_that_do_not_fit_are_refused(found):
  _, many = found
  for shape in ('(3, 1, 1)', '(-1, -1, 1)', '(-1, 0, 1)'):
    assert 'does not fit 8 devices' in many[shape]
  assert 'batch_size 6 does not divide over 8' in many['(8, 1, 1)']
