"""The parts of a dataset: what is made at a time, what is there of it, and in which type.

A part is a few clips of a split, for which every encoder's records are made together. Two that make the same
part do no harm: its file appears whole, and its index, by which it counts, last. A clip that an encoder fails
on gets an empty record in that stream, so that all streams keep the same records, and a line beside the part.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from v2meow_jax import errors, stores, terminal
from v2meow_jax.data import dataset, records, shards, table
from v2meow_jax.encoders import registry
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.streams import Stream

CLIPS_A_PART = 16


def require_tensorflow() -> None:
  """Raises `errors.ConfigError` where it is not installed."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  try:
    with terminal.hushed():  # it takes seconds to import, and tells of what it does not find
      import tensorflow  # noqa: F401
  except ImportError as error:
    raise errors.ConfigError(
      'preparing writes TFRecords and needs TensorFlow; install v2meow-jax with the extra "train"'
    ) from error


@dataclasses.dataclass(frozen=True)
class Part:
  """Clips of a split whose records are made together.

  Attributes:
    split: of the clips.
    number: of the part in the split.
    clips: their numbers in the split.
  """

  split: str
  number: int
  clips: range

  def path(self, directory: epath.PathLike, stream: Stream) -> epath.Path:
    """Where its records of a stream are kept until the stream is finished."""
    return records.part_path(directory, stream, self.split, self.number)


def parts_of(directory: epath.PathLike, clips_a_part: int = CLIPS_A_PART) -> list[Part]:
  """All parts of a dataset, from its table."""
  found = []
  for split in table.SPLITS:
    count = len(table.ClipTable(directory, split))
    starts = range(0, count, clips_a_part)
    found += [Part(split, n, range(at, min(at + clips_a_part, count))) for n, at in enumerate(starts)]
  return found


def needed(
  directory: epath.PathLike, encoder: Encoder, parts: Sequence[Part], clips_a_part: int
) -> list[Part]:
  """Parts of which a stream has to be made: all; once it is finished, those whose shard is damaged.

  Raises:
    errors.DatasetError: the stream is there already, made by something else.
  """
  entry = dataset.read_streams(directory).get(encoder.stream.name)
  if entry is None:
    return list(parts)
  if not registry.same(entry['made_by'], encoder.identity):
    raise errors.DatasetError(
      f'{directory}: stream {encoder.stream.name!r} is there already, made by another encoder or other '
      'weights; use another directory, or delete that stream and its entry in streams.json'
    )
  broken = shards.broken(directory, encoder.stream, entry['shards'], entry['clips_a_shard'])
  size = entry['clips_a_shard']
  if broken and size % clips_a_part:
    raise errors.DatasetError(
      f'{directory}: stream {encoder.stream.name!r} has {size} clips a shard; mend it with '
      f'--clips_a_part={size}'
    )
  return [part for part in parts if part.clips.start // size in broken.get(part.split, ())]


def unmade(directory: epath.PathLike, stream: Stream, parts: Sequence[Part]) -> list[Part]:
  """Those that are not there."""
  there = stores.sizes(records.part_path(directory, stream, 'train', 0).parent)
  return [part for part in parts if records.index_path(part.path(directory, stream)).name not in there]


def stored(stream: Stream, elements: np.ndarray) -> np.ndarray:
  """Elements in the record's type.

  Raises:
    ValueError: some are not finite in it, or are no codes of the stream.
  """
  with np.errstate(over='ignore', invalid='ignore'):
    cast = elements.astype(stream.dtype)
  if stream.kind == 'tokens' and elements.size and not 0 <= elements.min() <= elements.max() < stream.codes:
    raise ValueError(
      f'{stream.name}: {elements.min()} to {elements.max()} are not all codes below {stream.codes}'
    )
  if not np.isfinite(elements).all() or not np.isfinite(cast).all():
    raise ValueError(f'{stream.name}: values that are not finite in {stream.dtype}')
  return cast


def rejected_path(part: epath.Path) -> epath.Path:
  """Where what a part rejects is kept until the dataset is finished."""
  return part.with_name(part.name + '.rejected.jsonl')
