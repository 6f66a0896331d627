"""Optimisers: what decays, by how much, and where factored statistics lie."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import optimizers
from v2meow_jax.training.optimizers import adafactor, adamw


def params():
  ones = lambda *shape: jnp.ones(shape)  # noqa: E731
  return {
    'kernel': ones(4, 6),
    'scale': ones(6),
    'relative_bias': ones(32, 2),
    'layers': {'scale': ones(3, 6)},
  }


@pytest.mark.parametrize('made', [adamw, adafactor])
def test_nothing_decays_at_a_learning_rate_of_nothing(made):
  optimizer = made(0.0, weight_decay=0.5)
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params()), optimizer.init(params()), params())
  assert all(not leaf.any() for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize('made', [adamw, adafactor])
def test_matrices_decay_by_the_learning_rate_times_the_weight_decay_and_biases_do_not(made):
  optimizer = made(0.1, weight_decay=0.5)
  updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params()), optimizer.init(params()), params())
  np.testing.assert_allclose(updates['kernel'], -0.05, rtol=1e-6)
  for name in ('scale', 'relative_bias'):
    assert not updates[name].any()
  assert not updates['layers']['scale'].any()


def test_without_decay_adafactor_is_optaxs_own():
  gradients = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), params())
  ours, theirs = adafactor(0.01), optax.adafactor(0.01)
  states, found = [ours.init(params()), theirs.init(params())], [params(), params()]
  for _ in range(3):
    for n, optimizer in enumerate((ours, theirs)):
      updates, states[n] = optimizer.update(gradients, states[n], found[n])
      found[n] = optax.apply_updates(found[n], updates)
  for one, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)


def box(axes, *shape, seed=0):
  return nn.LogicallyPartitioned(jax.random.normal(jax.random.key(seed), shape), axes)


@pytest.mark.slow
def test_adafactor_takes_every_layer_and_every_level_as_optax_takes_an_array_of_its_own():
  boxed = {
    'layers': {
      'kernel': box(('layers', 'embed', 'mlp'), 3, 8, 12),
      'scale': box(('layers', 'embed'), 3, 8),
      'small': box(('layers', 'embed', 'kv'), 3, 8, 2),
    },
    'table': box(('levels', 'vocab', 'embed'), 2, 16, 8),
    'kernel': box(('kv', 'embed', 'mlp'), 3, 8, 12),  # a convolution's: three dimensions and one array
  }
  # Arrays of sizes as unlike as layers' may be: what is taken over all of them then differs most.
  scale = lambda x: x * 10.0 ** jnp.arange(len(x)).reshape(-1, *(1,) * (x.ndim - 1))  # noqa: E731
  boxed = {name: jax.tree.map(scale, tree) for name, tree in boxed.items()}
  stacked = {'layers', 'table'}
  single = {name: nn.unbox(tree) for name, tree in boxed.items()}

  def apart(tree):
    return {
      name: [jax.tree.map(lambda x, n=n: x[n], part) for n in range(len(jax.tree.leaves(part)[0]))]
      if name in stacked
      else part
      for name, part in tree.items()
    }

  ours = adafactor(0.1, min_dim_size_to_factor=8)
  theirs = optax.adafactor(0.1, min_dim_size_to_factor=8)
  params, alone = single, apart(single)
  states = [ours.init(boxed), theirs.init(alone)]
  states[0] = nn.unbox(states[0])
  for step in range(3):
    gradients = jax.tree.map(lambda x, step=step: x**2 * jnp.cos(x + step), params)
    updates, states[0] = ours.update(gradients, states[0], params)
    params = optax.apply_updates(params, updates)
    updates, states[1] = theirs.update(apart(gradients), states[1], alone)
    alone = optax.apply_updates(alone, updates)
  # float32: means are added in another order.
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), apart(params), alone)
  kept = states[0][0]
  assert kept.v_row['layers']['kernel'].shape == (3, 8) and kept.v['layers']['kernel'].shape == (3, 1)
  assert kept.v['layers']['small'].shape == (3, 8, 2) and kept.v_row['kernel'].ndim == 2


def test_what_adafactor_does_not_keep_of_a_parameter_is_whole_on_every_device():
  def init():
    boxed = {'w': nn.LogicallyPartitioned(jnp.ones((8,)), ('embed',))}
    return adafactor(0.1).init(boxed)

  class Mesh(Partitioner):
    mesh = jax.sharding.AbstractMesh((1, 4, 1), ('data', 'fsdp', 'tensor'))

  assert Mesh().array_spec(('embed',), (1,)) == jax.sharding.PartitionSpec(None)
  assert Mesh().array_spec(('embed',), (8,)) == jax.sharding.PartitionSpec('fsdp')
  leaves = jax.tree.leaves(init(), is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
  assert any(isinstance(leaf, nn.LogicallyPartitioned) and leaf.value.shape == (1,) for leaf in leaves)


@pytest.mark.parametrize('make', [optimizers.adamw, optimizers.adafactor])
def test_the_learning_rate_is_told_as_it_is_applied(make):
  schedule = optimizers.warmup_cosine(0.1, 3, 20)
  made = make(schedule, clip_norm=1.0)
  for step in range(6):
    found = optimizers.rate_metric(made, jnp.int32(step))
    assert float(found['learning_rate']) == pytest.approx(float(schedule(step)))
  assert float(optimizers.rate_metric(make(0.25), jnp.int32(7))['learning_rate']) == 0.25
  assert optimizers.rate_metric(optax.sgd(0.1), jnp.int32(0)) == {}
