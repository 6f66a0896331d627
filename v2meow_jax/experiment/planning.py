"""What a configured run needs, by arithmetic, without compiling and without its devices."""

import dataclasses
import math
import re
from typing import Any

import flax.linen as nn
import jax

from v2meow_jax import errors
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training import run as run_lib
from v2meow_jax.training.devices import LIMITS, limits
from v2meow_jax.training.guard import Guard
from v2meow_jax.training.protocols import Batches, Trainable

# Share of the peak that a training step is assumed to attain: MaxText publishes 45 to 65 % on TPU.
ATTAINED = 0.5


@dataclasses.dataclass(frozen=True)
class Plan:
  """An estimate; sizes are bytes on a device.

  Attributes:
    devices: their number and kind.
    mesh: sizes of the mesh axes.
    parameters: elements of the part of the state that a bundle would hold.
    state, batch, gradients, activations: bytes on a device.
    available: bytes that a device has; None: unknown kind.
    model_flops: of a step on all devices.
    seconds: of a step, at `ATTAINED` of the peak; None: unknown.
    tokens: predicted in a step.
  """

  devices: str
  mesh: dict[str, int]
  parameters: int
  state: float
  batch: float
  gradients: float
  activations: float
  available: float | None
  model_flops: float | None
  seconds: float | None
  tokens: int

  @property
  def total(self) -> float:
    """Bytes on a device."""
    return self.state + self.batch + self.gradients + self.activations

  def __str__(self) -> str:
    giga = 1 / 2**30
    room = f' of {self.available * giga:.0f}' if self.available else ''
    lines = [
      f'devices      {self.devices}, mesh ' + ' '.join(f'{k}={v}' for k, v in self.mesh.items()),
      f'parameters   {self.parameters / 1e6:.1f} million',
      f'memory       {self.total * giga:.2f}{room} GiB a device: {(self.state + self.batch) * giga:.2f} '
      f'state and batch, {self.gradients * giga:.2f} gradients, {self.activations * giga:.2f} activations',
    ]
    if self.model_flops:
      lines.append(f'FLOPs        {self.model_flops:.3g} a step, {self.tokens} tokens')
    if self.seconds:
      lines.append(
        f'time         {self.seconds:.3g} s a step at {ATTAINED:.0%} of the peak: '
        f'{self.tokens / self.seconds:.3g} tokens a second'
      )
    if self.available and self.total > self.available:
      lines.append('it does not fit: raise microbatches or fsdp, or set remat to "full"')
    return '\n'.join(lines)


def parse_topology(topology: str) -> tuple[str, int]:
  """(kind, devices) of `v5e:16x16` or `H100:8`.

  Raises:
    errors.ConfigError: it is neither.
  """
  match = re.fullmatch(r'(\w+):([1-9]\d*(?:x[1-9]\d*)*)', topology)
  if not match or match[1] not in LIMITS:
    raise errors.ConfigError(
      f'--topology={topology}: not a kind and its number, such as v5e:16x16 or H100:8 '
      f'(kinds: {", ".join(LIMITS)})'
    )
  return match[1], math.prod(int(size) for size in match[2].split('x'))


def _split_bytes(tree: Any, partitioner: Partitioner, sizes: dict[str, int]) -> float:
  """Bytes of a (boxed) abstract tree on one device."""
  total = 0.0
  for leaf in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)):
    value, ways = leaf, [1]
    if isinstance(leaf, nn.LogicallyPartitioned):
      value = leaf.value
      if len(leaf.names) == value.ndim:
        ways = partitioner.ways(partitioner.array_spec(leaf.names, value.shape), sizes)
        for size, parts in zip(value.shape, ways, strict=False):
          if size % parts:
            raise errors.ConfigError(
              f'an array {value.shape} of {leaf.names}: {size} does not divide over {parts} devices; change '
              'the mesh or the size'
            )
    total += math.prod(value.shape) * value.dtype.itemsize / math.prod(ways)
  return total


def activations(trainable: StageTrainable, examples: float, tensor: int) -> float:
  """Bytes that a device holds of `examples` examples between forward and backward pass, roughly.

  Of each layer, by remat: its input (`full`); its input and what its products give (`minimal`); and
  what norms, rotations, gate and residuals keep besides (`none`). Then the layer that is being
  differentiated, and the logits with their gradient, in float32.
  """
  stage, config = trainable.stage, trainable.config
  size = 2 if config.dtype == 'bfloat16' else 4
  length = stage.prefix_length + stage.steps
  width, inner = config.width, config.mlp * (2 if config.gated else 1)
  products = (4 * width + inner) / tensor + 2 * width
  everything = products + 6 * width + (4 * width + 2 * inner) / tensor
  kept = {'full': width, 'minimal': width + products, 'none': everything}[config.remat]
  of_layers = config.layers * kept * size
  working = 2 * everything * size if config.remat != 'none' else everything * size
  tokens = stage.frames * stage.target.depth
  logits = 3 * tokens * stage.target.stream.codes / tensor * 4
  return examples * (length * (of_layers + working) + logits)


def estimate(
  trainable: Trainable, batches: Batches, partitioner: Partitioner, guard: Guard, kind: str, devices: int
) -> Plan:
  """The plan of a run on `devices` devices of a kind."""
  sizes = partitioner.axis_sizes(devices)
  shapes = batches.shapes()
  key = jax.eval_shape(lambda: jax.random.key(0))
  boxed = jax.eval_shape(run_lib.init_function(trainable, guard), key, shapes)
  state = nn.unbox(boxed)
  ways = partitioner.ways(partitioner.spec(('batch',)), sizes)[0]
  held = 0.0
  if isinstance(trainable, StageTrainable):
    held = activations(trainable, batches.batch_size / ways / trainable.microbatches, sizes['tensor'])
  flops, known = trainable.flops(shapes), limits(kind)
  return Plan(
    devices=f'{devices} x {kind}',
    mesh=sizes,
    parameters=sum(
      math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(trainable.weights, state['trainable']))
    ),
    state=_split_bytes(boxed, partitioner, sizes),
    batch=sum(math.prod(x.shape) * x.dtype.itemsize for x in shapes.values()) / ways,
    gradients=_split_bytes(boxed['trainable']['params'], partitioner, sizes),
    activations=held,
    available=known.memory * 2**30 if known else None,
    model_flops=flops,
    seconds=flops / (devices * known.flops * ATTAINED) if flops and known else None,
    tokens=trainable.tokens(shapes),
  )
