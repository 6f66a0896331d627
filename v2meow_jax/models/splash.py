"""Splash attention, the TPU's flash kernel, for a prefix that sees all of itself and a causal sequence.

Imported only where it is used: it brings in Pallas.
"""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from v2meow_jax import errors, partitioning

LANES = 128  # of a TPU's vector registers: lengths must be multiples


class FirstColumns(masks.Mask):
  """True in the first `count` columns; asked for block by block, so it is never a whole square."""

  def __init__(self, size: tuple[int, int], count: int):
    self._size, self._count = size, count

  @property
  def shape(self) -> tuple[int, int]:
    return self._size

  def __getitem__(self, index) -> np.ndarray:
    rows, columns = (np.arange(size)[part] for size, part in zip(self._size, index, strict=True))
    return np.broadcast_to(columns < self._count, (len(rows), len(columns)))

  def __eq__(self, other) -> bool:
    return isinstance(other, FirstColumns) and (self._size, self._count) == (other._size, other._count)

  def __hash__(self) -> int:
    return hash((FirstColumns, self._size, self._count))


def prefix_causal(
  q: Float[Array, 'b t h d'],
  k: Float[Array, 'b t h d'],
  v: Float[Array, 'b t h d'],
  prefix: int,
  interpret: bool = False,
) -> Float[Array, 'b t h d']:
  """One call of the kernel, whose mask skips the blocks that nothing sees.

  The SPMD partitioner does not know the kernel, so each device is handed its own examples and heads.

  Args:
    q, k, v: queries, keys and values.
    prefix: elements that all see each other.
    interpret: run the kernel's maths without a TPU, for tests.

  Raises:
    errors.ConfigError: the heads do not divide over the mesh.
  """
  length, heads = q.shape[1], q.shape[2]
  padded = -(-length // LANES) * LANES
  mask = masks.CausalMask((padded, padded))
  if prefix:  # rows after the prefix see it anyway, so "or" is the decomposition
    mask = masks.LogicalOr(mask, FirstColumns((padded, padded), prefix))

  partitioner = partitioning.current()
  spec = partitioner.spec(('batch', 'heads', None, None)) if partitioner else PartitionSpec()
  ways = 1
  if partitioner and spec[1]:
    ways = partitioner.mesh.shape[spec[1]]
  if heads % ways:
    raise errors.ConfigError(f'{heads} attention heads do not divide over {ways} devices; change the mesh')
  block = next(size for size in (512, 384, 256, 128) if padded % size == 0)
  sizes = kernels.BlockSizes(
    block_q=block, block_kv=block, block_kv_compute=block,
    block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block,
    block_q_dq=block, block_kv_dq=block,
  )  # fmt: skip

  def attend(q, k, v):
    kernel = kernels.make_splash_mha(
      masks.MultiHeadMask([mask] * (heads // ways)),
      block_sizes=sizes,
      head_shards=1,
      q_seq_shards=1,
      interpret=interpret,
    )
    return cast(jax.Array, jax.vmap(kernel)(q, k, v))

  if partitioner and partitioner.mesh.size > 1:
    attend = jax.shard_map(
      attend, mesh=partitioner.mesh, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
    )
  room = ((0, 0), (0, 0), (0, padded - length), (0, 0))
  q, k, v = (jnp.pad(jnp.swapaxes(x, 1, 2), room) for x in (q * q.shape[-1] ** -0.5, k, v))
  return jnp.swapaxes(attend(q, k, v), 1, 2)[:, :length]
