"""The TPU's flash kernel gives what the form for any backend gives, and gives way where it cannot."""

import json
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2meow_jax import partitioning
from v2meow_jax.models import attention, splash


def qkv(length, heads=1, batch=1, dim=128):
  rng = np.random.default_rng(0)
  return [rng.standard_normal((batch, length, heads, dim)).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize(('length', 'prefix'), [(130, 20), (128, 0)])
def test_splash_attention_is_the_blockwise_form_with_its_gradients(length, prefix):
  inputs = qkv(length)
  weight = np.random.default_rng(1).standard_normal(inputs[0].shape).astype(np.float32)

  def both(attend):
    def loss(q, k, v):
      out = attend(q, k, v)
      return jnp.sum(out * weight), out

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*inputs)

  (_, out), grads = both(lambda *x: splash.prefix_causal(*x, prefix, interpret=True))
  (_, expected), expected_grads = both(lambda *x: attention.blockwise(*x, prefix))
  np.testing.assert_allclose(out, expected, atol=1e-5)  # float32
  for found, other in zip(grads, expected_grads, strict=True):
    np.testing.assert_allclose(found, other, atol=1e-4)  # float32, sums over 130 rows


MESH = """
import json, sys
import jax, numpy as np
from v2meow_jax import errors
from v2meow_jax.models import attention, splash
from v2meow_jax.partitioning import Partitioner
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((2, 128, 2, 128)).astype(np.float32) for _ in range(3))
part = Partitioner((2, 1, 2))
out = part.jit(lambda *x: splash.prefix_causal(*x, 30, interpret=True))(q, k, v)
error = float(np.abs(out - attention.blockwise(q, k, v, 30)).max())
try:
  Partitioner((1, 1, 4)).jit(lambda *x: splash.prefix_causal(*x, 30, interpret=True))(q, k, v)
except errors.ConfigError as refused:
  print(json.dumps([error, str(out.sharding.spec), str(refused)]))
"""


def test_on_a_mesh_each_device_attends_to_its_own_examples_and_heads():
  flags = {'JAX_NUM_CPU_DEVICES': '4', 'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run([sys.executable, '-c', MESH], capture_output=True, text=True, env=os.environ | flags)
  assert done.returncode == 0, done.stderr
  error, spec, refused = json.loads(done.stdout)
  assert error < 1e-5  # float32
  assert "'data'" in spec and "'tensor'" in spec
  assert '2 attention heads do not divide over 4 devices' in refused


CHOICES = [
  ('cpu', 'auto', 'float32', False, 'xla', ''),
  ('tpu', 'auto', 'bfloat16', False, 'splash', ''),
  ('tpu', 'auto', 'bfloat16', True, 'xla', 'bias'),
  ('gpu', 'auto', 'bfloat16', False, 'cudnn', ''),
  ('gpu', 'auto', 'float32', False, 'xla', 'float32'),
  ('gpu', 'xla', 'bfloat16', False, 'xla', ''),
  ('gpu', 'splash', 'bfloat16', False, 'xla', 'does not run on gpu'),
  ('cpu', 'cudnn', 'bfloat16', False, 'xla', 'does not run on cpu'),
]


@pytest.mark.parametrize(('platform', 'wanted', 'dtype', 'biased', 'expected', 'notice'), CHOICES)
def test_a_kernel_gives_way_with_a_notice(monkeypatch, platform, wanted, dtype, biased, expected, notice):
  monkeypatch.setattr(partitioning, 'platform', lambda: platform)
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    assert attention.choose(wanted, jnp.dtype(dtype), biased) == expected
  assert [notice in str(warning.message) for warning in caught] == ([True] if notice else [])
