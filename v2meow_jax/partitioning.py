"""Mesh, logical axis rules, and compilation with shardings: `jax.jit` over `NamedSharding`.

Parameters carry logical axis names (`embed`, `mlp`, `heads`, `vocab`, ...); a short table maps them
to mesh axes. Names are T5X's.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gin
from v2meow_jax import errors

MESH_AXES = ('data', 'fsdp', 'tensor')

DEFAULT_RULES = (
  ('batch', ('data', 'fsdp')),
  ('length', None),
  ('embed', 'fsdp'),
  ('mlp', 'tensor'),
  ('heads', 'tensor'),
  ('kv', None),
  ('vocab', 'tensor'),
  ('layers', None),
)


@gin.register
@dataclasses.dataclass(frozen=True)
class Partitioner:
  """Where arrays live.

  Attributes:
    mesh_shape: devices along `data`, `fsdp` and `tensor`; one of them may be -1, for what is left.
    logical_axis_rules: pairs of a logical axis and the mesh axis or axes it is split over, or None.
  """

  mesh_shape: tuple[int, int, int] = (-1, 1, 1)
  logical_axis_rules: tuple[tuple[str, Any], ...] = DEFAULT_RULES

  @property
  def mesh(self) -> Mesh:
    """The mesh over all devices.

    Raises:
      errors.ConfigError: the shape does not fit the number of devices.
    """
    shape, devices = list(self.mesh_shape), jax.device_count()
    fixed = 1
    for size in shape:
      fixed *= size if size != -1 else 1
    if (
      min(shape) < -1
      or 0 in shape
      or shape.count(-1) > 1
      or len(shape) != len(MESH_AXES)
      or devices % max(fixed, 1)
    ):
      raise errors.ConfigError(f'mesh_shape {self.mesh_shape} does not fit {devices} devices')
    shape = [devices // fixed if size == -1 else size for size in shape]
    if shape[0] * shape[1] * shape[2] != devices:
      raise errors.ConfigError(f'mesh_shape {self.mesh_shape} does not fit {devices} devices')
    # Linen's logical constraints need Auto axes; make_mesh defaults to Explicit ones.
    return jax.make_mesh(tuple(shape), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))

  def batch_sharding(self) -> NamedSharding:
    """Examples over the data axes."""
    return NamedSharding(self.mesh, PartitionSpec(('data', 'fsdp')))

  def check_batch(self, batch_size: int) -> None:
    """Raises `errors.ConfigError` where the batch does not divide over the data axes."""
    shape = dict(self.mesh.shape)
    ways = shape['data'] * shape['fsdp']
    if batch_size % ways:
      raise errors.ConfigError(
        f'batch_size {batch_size} does not divide over {ways} devices; make it a multiple'
      )

  def shard(self, batch: dict) -> dict:
    """Puts a host's batch on the devices."""
    return jax.device_put(batch, self.batch_sharding())

  def state_sharding(self, init: Callable, *args) -> tuple[Any, Any]:
    """(shardings, abstract) of the state that `init(*args)` makes, without making it."""
    boxed = jax.eval_shape(init, *args)
    shardings = nn.logical_to_mesh_sharding(
      nn.get_partition_spec(boxed), self.mesh, list(self.logical_axis_rules)
    )
    plain = nn.unbox(boxed)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), plain, shardings)
    return shardings, abstract

  def init(self, init: Callable, *args) -> tuple[Any, Any]:
    """(state, shardings): the state made where it will live, unboxed."""
    shardings, _ = self.state_sharding(init, *args)
    return jax.jit(lambda *a: nn.unbox(init(*a)), out_shardings=shardings)(*args), shardings
