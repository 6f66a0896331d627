"""Mesh, logical axis rules, and compilation with shardings: `jax.jit` over `NamedSharding`.

Parameters and activations carry logical axis names (`embed`, `mlp`, `heads`, `vocab`, ...); a short
table maps them to mesh axes. Names are T5X's, and so are `PjitPartitioner`'s arguments where they fit.
"""

import contextlib
import contextvars
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import gin
from v2meow_jax import errors

MESH_AXES = ('data', 'fsdp', 'tensor')

# The first rule whose mesh axes are still free is taken: an activation's `embed` is whole, as its
# `batch` already lies on `fsdp`.
DEFAULT_RULES = (
  ('batch', ('data', 'fsdp')),
  ('length', None),
  ('embed', 'fsdp'),
  ('mlp', 'tensor'),
  ('heads', 'tensor'),
  ('kv', None),
  ('vocab', 'tensor'),
  ('features', None),
  ('levels', None),
  ('relpos_buckets', None),
  ('layers', None),
)

# Axes along which arrays of their own are stacked: what is taken over an array is taken over each of them.
STACKED_AXES = ('layers', 'levels')


class Placed:
  """A mesh and the rules by which logical axes lie on it; see `placed`."""

  def __init__(self, mesh: Mesh, logical_axis_rules: Iterable[tuple[str, Any]]):
    self.mesh, self.logical_axis_rules = mesh, tuple(logical_axis_rules)

  @property
  def platform(self) -> str:
    """`cpu`, `gpu` or `tpu`."""
    return self.mesh.devices.flat[0].platform

  def spec(self, axes: tuple[str | None, ...]) -> PartitionSpec:
    """Where dimensions with these logical names lie."""
    found = nn.logical_to_mesh_axes(axes, list(self.logical_axis_rules))
    return PartitionSpec() if found is None else found


@gin.register(denylist=['devices'])
@dataclasses.dataclass(frozen=True)
class Partitioner(Placed):
  """Where arrays live.

  Attributes:
    ici_mesh_shape: devices along `data`, `fsdp` and `tensor` that a fast interconnect joins (a TPU
      slice, a GPU node, or all of them where there is one network); one may be -1, for what is left.
    dcn_mesh_shape: slices or hosts along the same axes, joined by the data-centre network. An axis has
      the product of both.
    logical_axis_rules: pairs of a logical axis and the mesh axis or axes it is split over, or None.
    devices: those of the mesh; all that there are by default.
    compiler_options: XLA's, as pairs of name and value, for the training step; a name that the compiler of
      the platform does not know fails there.
  """

  ici_mesh_shape: tuple[int, int, int] = (-1, 1, 1)
  dcn_mesh_shape: tuple[int, int, int] = (1, 1, 1)
  logical_axis_rules: tuple[tuple[str, Any], ...] = DEFAULT_RULES
  devices: tuple[Any, ...] | None = None
  compiler_options: tuple[tuple[str, Any], ...] = ()

  def __post_init__(self):
    for name in ('ici_mesh_shape', 'dcn_mesh_shape'):
      shape = getattr(self, name)
      if len(shape) != len(MESH_AXES) or not all(isinstance(size, int) for size in shape):
        raise errors.ConfigError(f'{name} {shape!r} is not three numbers, for {", ".join(MESH_AXES)}')
    if min(self.dcn_mesh_shape) < 1:
      raise errors.ConfigError(f'dcn_mesh_shape {self.dcn_mesh_shape} has a size below 1')
    for rule in self.logical_axis_rules:
      axes = () if len(rule) != 2 or rule[1] is None else (rule[1],) if isinstance(rule[1], str) else rule[1]
      if len(rule) != 2 or not set(axes) <= set(MESH_AXES):
        raise errors.ConfigError(
          f'logical_axis_rules: {rule!r} does not name a logical axis and some of {", ".join(MESH_AXES)}'
        )

  @functools.cached_property
  def mesh(self) -> Mesh:
    """The mesh over all devices.

    Raises:
      errors.ConfigError: the shape does not fit the number of devices.
    """
    devices = list(self.devices or jax.devices())
    slices, shape = math.prod(self.dcn_mesh_shape), self.ici_shape(len(devices))
    if slices == 1:
      made = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
      # TPU slices number themselves; elsewhere a host is what the slower network joins.
      numbered = len({getattr(device, 'slice_index', None) for device in devices}) > 1
      try:
        made = mesh_utils.create_hybrid_device_mesh(
          shape, self.dcn_mesh_shape, devices, process_is_granule=not numbered
        )
      except ValueError as error:
        raise errors.ConfigError(f'dcn_mesh_shape {self.dcn_mesh_shape}: {error}') from error
    # Linen's logical constraints need Auto axes.
    return Mesh(made, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))

  def ici_shape(self, devices: int) -> tuple[int, int, int]:
    """`ici_mesh_shape` with what is left for so many devices filled in.

    Raises:
      errors.ConfigError: the shapes do not fit the number of devices.
    """
    slices = math.prod(self.dcn_mesh_shape)
    shape, fixed = list(self.ici_mesh_shape), math.prod(size for size in self.ici_mesh_shape if size != -1)
    fits = min(shape) >= -1 and 0 not in shape and shape.count(-1) <= 1
    if fits:
      shape = [devices // (fixed * slices) if size == -1 else size for size in shape]
    if not fits or math.prod(shape) * slices != devices:
      raise errors.ConfigError(
        f'ici_mesh_shape {self.ici_mesh_shape} and dcn_mesh_shape {self.dcn_mesh_shape} do not fit '
        f'{devices} devices; their product must be that number (-1: what is left)'
      )
    data, fsdp, tensor = shape
    return data, fsdp, tensor

  def axis_sizes(self, devices: int) -> dict[str, int]:
    """Size of every mesh axis for so many devices."""
    shape = zip(self.ici_shape(devices), self.dcn_mesh_shape, strict=True)
    return {axis: ici * dcn for axis, (ici, dcn) in zip(MESH_AXES, shape, strict=True)}

  @property
  def replicated(self) -> NamedSharding:
    """The whole of an array on every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  def array_spec(self, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """Where dimensions with these names and sizes lie; one of a single element is whole everywhere.

    Adafactor puts such dimensions in the place of statistics that it does not keep.
    """
    spec = self.spec(axes)
    return PartitionSpec(*(None if size == 1 else axis for axis, size in zip(spec, shape, strict=False)))

  @staticmethod
  def ways(spec: PartitionSpec, sizes: Mapping[str, int]) -> list[int]:
    """Parts that each dimension of a spec is split into on a mesh of these sizes."""
    named = [() if axes is None else (axes,) if isinstance(axes, str) else axes for axes in spec]
    return [math.prod(sizes[name] for name in names) for names in named]

  def batch_sharding(self) -> NamedSharding:
    """Examples over the data axes."""
    return NamedSharding(self.mesh, self.spec(('batch',)))

  def check_batch(self, batch_size: int, microbatches: int = 1) -> None:
    """Raises `errors.ConfigError` where the batch does not divide over the data axes."""
    ways = self.ways(self.spec(('batch',)), self.mesh.shape)[0]
    if batch_size % (ways * microbatches):
      each = f' in {microbatches} microbatches' if microbatches > 1 else ''
      raise errors.ConfigError(
        f'batch_size {batch_size} does not divide over {ways} devices{each}; make it a multiple of '
        f'{ways * microbatches}'
      )

  def local_rows(self, batch_size: int) -> list[int]:
    """Numbers of the examples of a global batch that this host's devices hold, ascending."""
    places = self.batch_sharding().addressable_devices_indices_map((batch_size,))
    every = np.arange(batch_size)
    found = [every[index] for index in places.values() if index is not None]
    return np.unique(np.concatenate(found)).tolist()

  def shard(self, batch: dict, batch_size: int | None = None) -> dict:
    """Puts a host's rows of a batch on its devices, as its part of the global batch.

    Args:
      batch: arrays with the rows `local_rows(batch_size)`.
      batch_size: of the global batch; by default the rows are all of it.
    """
    sharding = self.batch_sharding()
    if jax.process_count() == 1:
      return jax.device_put(batch, sharding)
    if batch_size is None:
      batch_size = len(next(iter(batch.values())))
      rows = list(range(batch_size))
    else:
      rows = self.local_rows(batch_size)

    def place(values):
      def part(index):
        start, stop, _ = index[0].indices(batch_size)
        first = np.searchsorted(rows, start)
        return values[first : first + stop - start]

      return jax.make_array_from_callback((batch_size, *values.shape[1:]), sharding, part)

    return {name: place(np.asarray(values)) for name, values in batch.items()}

  @contextlib.contextmanager
  def active(self) -> Iterator[None]:
    """Makes `constrain` and `current` mean this partitioner while a function is traced."""
    with _made_current(self):
      yield

  def jit(self, function: Callable, **settings) -> Any:
    """`jax.jit` of a function whose activations are constrained by this partitioner."""

    @functools.wraps(function)
    def traced(*args, **kwargs):
      with self.active():
        return function(*args, **kwargs)

    return jax.jit(traced, **settings)

  def state_sharding(self, init: Callable, *args) -> tuple[Any, Any]:
    """(shardings, abstract) of the state that `init(*args)` makes, without making it.

    Raises:
      errors.ConfigError: a dimension does not divide over the mesh axes it is split over.
    """
    boxed = jax.eval_shape(init, *args)

    def place(path, leaf):
      spec = PartitionSpec()
      # Statistics of a factored optimiser have a parameter's names and fewer dimensions: they stay whole.
      if isinstance(leaf, nn.LogicallyPartitioned) and len(leaf.names) == leaf.value.ndim:
        spec = self.array_spec(leaf.names, leaf.value.shape)
        for size, ways in zip(leaf.value.shape, self.ways(spec, self.mesh.shape), strict=False):
          if size % ways:
            raise errors.ConfigError(
              f'{jax.tree_util.keystr(path, simple=True, separator="/")} {leaf.value.shape}: {size} does '
              f'not divide over {ways} devices (mesh {dict(self.mesh.shape)}); change the mesh or the size'
            )
      return NamedSharding(self.mesh, spec)

    shardings = jax.tree_util.tree_map_with_path(
      place, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
    )
    abstract = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.unbox(boxed), shardings
    )
    return shardings, abstract

  def init(self, init: Callable, *args) -> tuple[Any, Any]:
    """(state, shardings): the state made where it will live, unboxed."""
    shardings, _ = self.state_sharding(init, *args)
    return self.jit(lambda *a: nn.unbox(init(*a)), out_shardings=shardings)(*args), shardings


_current: contextvars.ContextVar[Placed | None] = contextvars.ContextVar('partitioner', default=None)


@contextlib.contextmanager
def _made_current(here: Placed) -> Iterator[None]:
  token = _current.set(here)
  try:
    yield
  finally:
    _current.reset(token)


def placed(
  mesh: Mesh, logical_axis_rules: Iterable[tuple[str, Any]] = DEFAULT_RULES
) -> contextlib.AbstractContextManager[None]:
  """Around the tracing of a network that another trainer compiles: what `constrain` and kernels go by.

  Args:
    mesh: that the function is compiled for; its axes may have any names.
    logical_axis_rules: pairs of a logical axis and the mesh axis or axes it is split over, or None.
  """
  return _made_current(Placed(mesh, logical_axis_rules))


def current() -> Placed | None:
  """Mesh and rules under which a function is being traced."""
  return _current.get()


def platform() -> str:
  """Platform that is being compiled for: the current mesh's, which need not be at hand."""
  partitioner = _current.get()
  return partitioner.platform if partitioner else jax.default_backend()


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """`x` with its dimensions where the current partitioner puts these logical axes; `x` itself without one."""
  partitioner = _current.get()
  if partitioner is None or partitioner.mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, NamedSharding(partitioner.mesh, partitioner.spec(axes)))
