"""Two layouts of the same layers: `layer_0`, `layer_1`, ... each on its own, or all stacked in `layers`.

Scanning over stacked layers compiles one layer instead of all; decoding wants each on its own. The
functions here turn any tree that holds layers (parameters, moments, averages) from one into the other.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def _is_box(x: Any) -> bool:
  return isinstance(x, nn.LogicallyPartitioned)


def _is_stack(x: Any) -> bool:
  return isinstance(x, dict) and ('layer_0' in x or 'layers' in x)


def _stack_leaves(*leaves: Any) -> Any:
  if _is_box(leaves[0]):
    names = ('layers', *leaves[0].names)
    return leaves[0].replace(value=_stack_leaves(*(leaf.value for leaf in leaves)), names=names)
  return jnp.stack(leaves)


def to_scanned(tree: Any) -> Any:
  """Every `layer_0` ... `layer_n` stacked along a new first axis, under `layers`."""

  def convert(node):
    if not _is_stack(node) or 'layers' in node:
      return node
    count = sum(name.startswith('layer_') for name in node)
    layers = [node[f'layer_{i}'] for i in range(count)]
    rest = {name: value for name, value in node.items() if not name.startswith('layer_')}
    return rest | {'layers': jax.tree.map(_stack_leaves, *layers, is_leaf=_is_box)}

  return jax.tree.map(convert, tree, is_leaf=lambda x: _is_stack(x) or _is_box(x))


def to_unrolled(tree: Any, count: int) -> Any:
  """Inverse of `to_scanned`, of `count` layers."""

  def convert(node):
    if not _is_stack(node) or 'layers' not in node:
      return node
    rest = {name: value for name, value in node.items() if name != 'layers'}
    for i in range(count):
      rest[f'layer_{i}'] = jax.tree.map(lambda x, i=i: x[i], node['layers'])
    return rest

  return jax.tree.map(convert, tree, is_leaf=_is_stack)


def transpose_kernels(params: Any) -> Any:
  """A stage's parameters with head and layers' kernels turned from [in, out] to [out, in], or back."""

  def turn(path, leaf):
    names = [getattr(part, 'key', None) for part in path]
    if names != ['head'] and ('transformer' not in names or names[-1] != 'kernel'):
      return leaf
    # NumPy's own stay there: each shape would be a program to compile.
    if isinstance(leaf, np.ndarray):
      return np.ascontiguousarray(np.swapaxes(leaf, -1, -2))
    return jnp.swapaxes(leaf, -1, -2)

  return jax.tree_util.tree_map_with_path(turn, params)
