"""Optimisers: what decays, by how much, and where factored statistics lie."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from v2meow_jax.partitioning import Partitioner
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
