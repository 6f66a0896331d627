"""What all networks here need of Linen: parameters with logical axes, and calls as pure functions."""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax


def parameter(
  module: nn.Module, name: str, init: Callable, axes: tuple[str | None, ...], shape: tuple[int, ...]
) -> jax.Array:
  """A parameter of `module` whose dimensions have the logical names `axes`; see `partitioning`.

  Raises:
    ValueError: the parameters that the module was given have another shape there.
  """
  if not module.has_variable('params', name):
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))
  # `param` would trace the initialiser for its shape, which takes longer than to trace the network.
  value = given(module, name)
  if value.shape != shape:
    raise ValueError(f'parameter {"/".join((*module.path, name))} has shape {value.shape}, not {shape}')
  return value


def given(module: nn.Module, name: str) -> Any:
  """What the module was given for a parameter, whatever its shape."""
  return nn.unbox(module.get_variable('params', name))


def real() -> Any:
  """float32; float64 where JAX has it enabled."""
  return jax.dtypes.canonicalize_dtype(float)


def call(module: nn.Module, params: Any, *args, **kwargs) -> Any:
  """The module as a function of its parameters; `method` names another method than `__call__`."""
  return module.apply({'params': params}, *args, **kwargs)
