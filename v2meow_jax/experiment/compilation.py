"""Compiles a configured step without running it, for devices that need not be there.

A TPU's compiler comes with `libtpu` (extra `tpu`) and works on any machine.
"""

import dataclasses
import math
import os
import re
import time
from typing import Any

import jax
import numpy as np

from v2meow_jax import errors
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import run as run_lib
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.protocols import Batches, Trainable

# An instruction of a compiled program: its result's shapes, and the collective that makes it.
COLLECTIVE = re.compile(
  r'= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\('
)
SHAPE = re.compile(r'(pred|[a-z]+\d+)\[([\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What a compiler says of a step.

  Attributes:
    devices: their number and kind.
    mesh: sizes of the mesh axes.
    parameters: elements of the part of the state that a bundle would hold.
    arguments, temporaries, peak: bytes on a device: state and batch; what a step needs besides; both.
    flops, bytes: of the program of one device, as the compiler counts them (a loop's body once).
    model_flops: of a step on all devices, by `Trainable.flops`.
    collectives: operation -> (instructions, bytes of their results), a loop's body once.
    placed: the largest arrays of the state: name, shape, sharding, shape on a device.
    seconds: that compiling took.
  """

  devices: str
  mesh: dict[str, int]
  parameters: int
  arguments: int
  temporaries: int
  peak: int
  flops: float
  bytes: float
  model_flops: float | None
  collectives: dict[str, tuple[int, int]]
  placed: list[tuple[str, tuple[int, ...], str, tuple[int, ...]]]
  seconds: float

  def __str__(self) -> str:
    giga = 1 / 2**30
    lines = [
      f'devices      {self.devices}, mesh ' + ' '.join(f'{k}={v}' for k, v in self.mesh.items()),
      f'parameters   {self.parameters / 1e6:.1f} million',
      f'memory       {self.peak * giga:.2f} GiB a device: {self.arguments * giga:.2f} state and batch, '
      f'{self.temporaries * giga:.2f} temporary',
      f'FLOPs        {self.flops:.3g} a device and step (compiler, loop bodies once)',
    ]
    if self.model_flops:
      lines.append(f'             {self.model_flops:.3g} a step in all (formula, without remat)')
    for name, (count, size) in self.collectives.items():
      lines.append(f'{name:<12} {count} x, {size * giga:.3f} GiB of results (loop bodies once)')
    lines += [f'             {name} {shape} over {spec}: {piece}' for name, shape, spec, piece in self.placed]
    return '\n'.join([*lines, f'compiled in  {self.seconds:.0f} s'])


def topology_devices(topology: str, slices: int = 1) -> tuple[Any, ...]:
  """Devices of a TPU topology such as `v5e:16x16`, none of which need be there.

  Raises:
    errors.ConfigError: libtpu is not installed, or knows no such topology.
  """
  # libtpu would ask the cloud's metadata server what it runs on, and let one process at a time have it.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  from jax.experimental import topologies

  settings = {'num_slices': slices} if slices > 1 else {}
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=topology, **settings)
  except Exception as error:  # of several kinds, none of them documented
    raise errors.ConfigError(
      f'--topology={topology}: {str(error).strip().splitlines()[0][:200]}; libtpu must be installed '
      '(extra "tpu"), and a topology reads v5e:16x16 or v5p:4x4x4'
    ) from error
  return tuple(found.devices)


def collectives(program: str) -> dict[str, tuple[int, int]]:
  """Collectives in the text of a compiled program: operation -> (instructions, bytes of their results)."""
  found: dict[str, tuple[int, int]] = {}
  for line in program.splitlines():
    match = COLLECTIVE.search(line)
    if not match:
      continue
    size = 0
    for kind, dimensions in SHAPE.findall(match[1]):
      bits = 8 if kind == 'pred' else int(re.sub(r'\D', '', kind) or 32)
      size += math.prod(int(n) for n in dimensions.split(',') if n) * bits // 8
    count, total = found.get(match[2], (0, 0))
    found[match[2]] = (count + 1, total + size)
  return found


def compile_step(trainable: Trainable, batches: Batches, partitioner: Partitioner, guard: Guard) -> Compiled:
  """Compiles the very step that training would run, from shapes alone."""
  partitioner.check_batch(batches.batch_size, trainable.microbatches)
  shapes = batches.shapes()
  init = run_lib.init_function(trainable, guard)
  key = jax.eval_shape(lambda: jax.random.key(0))
  shardings, state = partitioner.state_sharding(init, key, shapes)
  step = run_lib.step_function(trainable, guard, partitioner, shardings, seed=0)
  batch = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=partitioner.batch_sharding())
    for name, x in shapes.items()
  }
  number, asked = (
    jax.ShapeDtypeStruct(shape, np.int32, sharding=partitioner.replicated) for shape in ((), (1,))
  )
  began = time.monotonic()
  try:
    compiled = step.lower(state, batch, number, asked).compile(
      compiler_options=dict(partitioner.compiler_options)
    )
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    told = ' '.join(str(error).split())[:300]
    raise errors.ConfigError(
      f'the step does not fit the memory of a device ({told}); raise StageTrainable.microbatches, set '
      'TransformerConfig.remat = "full", or use more devices along fsdp'
    ) from error
  seconds = time.monotonic() - began
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
  weights = jax.eval_shape(trainable.weights, state['trainable'])
  leaves = sorted(jax.tree_util.tree_flatten_with_path(state)[0], key=lambda item: -math.prod(item[1].shape))
  devices = partitioner.mesh.devices
  return Compiled(
    devices=f'{devices.size} x {devices.flat[0].device_kind}',
    mesh=dict(partitioner.mesh.shape),
    parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights)),
    arguments=memory.argument_size_in_bytes,
    temporaries=memory.temp_size_in_bytes,
    peak=memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
    flops=float(cost.get('flops', math.nan)),
    bytes=float(cost.get('bytes accessed', math.nan)),
    model_flops=trainable.flops(shapes),
    collectives=collectives(compiled.as_text()),
    placed=[
      (
        jax.tree_util.keystr(path, simple=True, separator='/'),
        leaf.shape,
        str(tuple(leaf.sharding.spec)),
        leaf.sharding.shard_shape(leaf.shape),
      )
      for path, leaf in leaves[:4]
    ],
    seconds=seconds,
  )
