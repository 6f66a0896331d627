"""Our Adafactor against T5X's, on stacked layers and on tables of several levels."""

import pathlib

import flax.linen as nn
import jax
import numpy as np
import optax
import small
from flax import traverse_util

from v2meow_jax.t5x import param_states
from v2meow_jax.training.optimizers import adafactor

AXES = {
  'layers/up/kernel': ('layers', 'embed', 'mlp'),
  'layers/down/kernel': ('layers', 'mlp', 'embed'),
  'layers/norm/scale': ('layers', 'embed'),
  'embedding': ('levels', 'vocab', 'embed'),
  'head': ('levels', 'embed', 'vocab'),
  'out/kernel': ('heads', 'embed'),
}


def part(found, name):
  start = f'{name}/'
  return {key.removeprefix(start): value for key, value in found.items() if key.startswith(start)}


def nested(flat):
  return traverse_util.unflatten_dict(flat, sep='/')


def test_three_steps_are_t5xs_for_every_layer_and_level():
  with np.load(pathlib.Path(__file__).parent / 'fixtures' / 'adafactor.npz') as file:
    found = dict(file)
  params = nested(part(found, 'before'))
  # T5X factors what is stacked whatever its size.
  optimizer = adafactor(0.1, min_dim_size_to_factor=6)
  boxed = {name: nn.LogicallyPartitioned(value, AXES[name]) for name, value in part(found, 'before').items()}
  state = nn.unbox(optimizer.init(nested(boxed)))
  for step in range(3):
    updates, state = optimizer.update(nested(part(found, f'gradient_{step}')), state, params)
    params = optax.apply_updates(params, updates)
  ours = small.flat(params)
  for name, value in part(found, 'after').items():
    # float32: means are added in another order, through three steps.
    np.testing.assert_allclose(ours[name], value, rtol=1e-5, err_msg=name)
  kept = optax.FactoredState(state[0].count, *(small.flat(getattr(state[0], p)) for p in param_states.KEPT))
  theirs = part(found, 'state')
  told = param_states.to_t5x(kept, ours, AXES)
  assert set(told) == set(theirs)
  for name, value in theirs.items():
    assert told[name].shape == value.shape, name
    np.testing.assert_allclose(told[name], value, rtol=1e-5, err_msg=name)
  back = param_states.of_t5x(told, 3, ours, AXES)
  jax.tree.map(np.testing.assert_array_equal, back._asdict(), kept._asdict())
