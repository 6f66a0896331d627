"""From media files to a dataset: the table, the parts of its streams, and what training reads.

Each of the three can be repeated, interrupted and, the parts, shared out to many machines.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from etils import epath

from v2meow_jax import errors, files
from v2meow_jax.data import finishing, manifest, spans, splits, table
from v2meow_jax.data.making import make_parts
from v2meow_jax.data.parts import CLIPS_A_PART
from v2meow_jax.data.records import SHARD_BYTES
from v2meow_jax.encoders.base import Encoder


def make_table(
  manifest_path: pathlib.Path,
  directory: epath.PathLike,
  *,
  validation_share: float = 0.05,
  clip_seconds: float = 60.0,
  least_seconds: float = 5.0,
  split_by: Sequence[str] = (),
  media: pathlib.Path | None = None,
) -> int:
  """Writes the clip table of a manifest, or checks that the one there is the manifest's; the number of clips.

  Args:
    manifest_path: of the rows.
    directory: of the dataset.
    validation_share: of the sources, or of groups of them.
    clip_seconds: that a clip has at most.
    least_seconds: that it has at least.
    split_by: keys of the manifest besides `source` of which no value is in both splits, such as `artist`.
    media: folder that the rows' paths may not leave, see `manifest.read`.

  Raises:
    errors.DatasetError: no row can be used, or the directory holds another manifest's clips.
  """
  directory = epath.Path(directory)
  rows, rejected = manifest.read(manifest_path, media)
  clips, _, unreadable = manifest.cut(rows, spans.spans_of(rows), clip_seconds, least_seconds)
  of_source = splits.assign(rows, validation_share, split_by)
  clips = [dataclasses.replace(clip, split=of_source[clip.source]) for clip in clips]
  write_table(directory, manifest_path, clips, rejected + unreadable)
  return len(clips)


def write_table(
  directory: epath.PathLike, manifest_path: pathlib.Path, clips: list[table.Clip], rejected: list[dict]
) -> None:
  """Writes the clip table and what was rejected on the way to it; raises as `make_table` does."""
  directory = epath.Path(directory)
  if not clips:
    reason = rejected[0]['reason'] if rejected else 'it is empty'
    raise errors.DatasetError(f'{manifest_path}: no row can be used; the first reason: {reason}')
  directory.mkdir(parents=True, exist_ok=True)
  if (directory / 'clips.jsonl').exists() and table.read_clips(directory) != clips:
    raise errors.DatasetError(
      f'{directory}: it holds the clips of another manifest or other settings; name an empty directory'
    )
  table.write(directory, clips)
  report = directory / 'rejected.jsonl'
  of_streams = [row for row in files.read_lines(report) if 'stream' in row] if report.exists() else []
  files.write_lines(report, rejected + of_streams)


def prepare_streams(
  directory: epath.PathLike,
  encoders: Sequence[Encoder],
  *,
  processes: int = 2,
  clips_a_part: int = CLIPS_A_PART,
  shard_bytes: int = SHARD_BYTES,
) -> tuple[int, list[dict]]:
  """Adds streams to the dataset in `directory`, on this machine alone.

  Args:
    directory: with a clip table.
    encoders: one a stream.
    processes: that work at once.
    clips_a_part: clips that are done at a time.
    shard_bytes: that a shard has, roughly.

  Returns:
    (clips, rejected).

  Raises:
    errors.DatasetError: a stream is there already, made by something else.
  """
  rejected = make_parts(directory, encoders, processes=processes, clips_a_part=clips_a_part)
  clips = finishing.finish(directory, encoders, clips_a_part=clips_a_part, shard_bytes=shard_bytes)
  return clips, rejected
