"""What all networks here need of Linen: parameters with logical axes, and calls as pure functions."""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax


def parameter(
  module: nn.Module, name: str, init: Callable, axes: tuple[str | None, ...], shape: tuple[int, ...]
) -> jax.Array:
  """A parameter of `module` whose dimensions have the logical names `axes`; see `partitioning`."""
  return cast(jax.Array, module.param(name, nn.with_logical_partitioning(init, axes), shape))


def real() -> Any:
  """float32; float64 where JAX has it enabled."""
  return jax.dtypes.canonicalize_dtype(float)


def call(module: nn.Module, params: Any, *args, **kwargs) -> Any:
  """The module as a function of its parameters; `method` names another method than `__call__`."""
  return module.apply({'params': params}, *args, **kwargs)
