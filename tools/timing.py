"""What the benchmarks share: how they time, what the machine's limits are, and where rows of results go."""

import json
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def median_seconds(run: Callable[[], Any], repeats: int, uncounted: int = 1) -> float:
  """Median time of `repeats` calls that wait for their results, after some that are not counted."""
  times = []
  for n in range(repeats + uncounted):
    began = time.perf_counter()
    run()
    if n >= uncounted:
      times.append(time.perf_counter() - began)
  return statistics.median(times)


def product_flops(dtype: Any = jnp.float32) -> float:
  """FLOP/s of a product of two square matrices, in the type that XLA chooses for the result."""
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((n, n), dtype)
  product = jax.jit(lambda x: x @ x)
  return 2 * n**3 / median_seconds(lambda: product(x).block_until_ready(), 5, 2)


def read_bandwidth() -> float:
  """Bytes a second at which a large array is summed."""
  x = jnp.ones(2**26 if jax.default_backend() == 'cpu' else 2**30, jnp.float32)
  total = jax.jit(jnp.sum)
  return x.nbytes / median_seconds(lambda: total(x).block_until_ready(), 5, 2)


def device() -> str:
  """What is measured on."""
  return f'{jax.devices()[0].device_kind} x {jax.device_count()}'


def tell(row: dict[str, Any], path: str | None) -> None:
  """Prints a row of results, and appends it at once to a file of JSON lines, where one is named.

  A row that does not say of which device it is is of this process's.
  """
  row = row if 'device' in row else {'device': device()} | row
  print('  '.join(f'{key} {_short(value)}' for key, value in row.items()), flush=True)
  if path:
    with pathlib.Path(path).open('a') as file:
      file.write(json.dumps(row) + '\n')


def _short(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)
