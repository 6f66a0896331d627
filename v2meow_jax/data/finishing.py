"""Makes of a dataset's parts what training reads: shards, indexes, TFDS's metadata, `streams.json`."""

import concurrent.futures
import functools
import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from v2meow_jax import errors, files, stores, terminal
from v2meow_jax.data import dataset, records, shards, table
from v2meow_jax.data import parts as parts_lib
from v2meow_jax.data.parts import Part
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.streams import Stream

AT_ONCE = 8  # shards that are joined at once


def finish(
  directory: epath.PathLike,
  encoders: Sequence[Encoder],
  *,
  clips_a_part: int = parts_lib.CLIPS_A_PART,
  shard_bytes: int = records.SHARD_BYTES,
) -> int:
  """Finishes the streams of these encoders, whose parts are all there; the number of clips.

  Args:
    directory: of the dataset.
    encoders: one a stream.
    clips_a_part: as the parts were made.
    shard_bytes: that a shard has, roughly.

  Raises:
    errors.DatasetError: parts are missing.
  """
  directory = epath.Path(directory)
  parts = parts_lib.parts_of(directory, clips_a_part)
  todo = []
  for encoder in encoders:
    wanted = parts_lib.needed(directory, encoder, parts, clips_a_part)
    missing = parts_lib.unmade(directory, encoder.stream, wanted)
    if missing:
      raise errors.DatasetError(
        f'{directory}: {len(missing)} of {len(wanted)} parts of stream {encoder.stream.name} are missing, '
        f'the first is {missing[0].split}-{missing[0].number:05d}; make them with v2meow prepare'
      )
    if wanted:
      todo.append((encoder, wanted))
  for encoder, wanted in todo:
    entry = _finish_stream(directory, encoder, wanted, clips_a_part, shard_bytes)
    rejected = _rejected(directory, encoder.stream, wanted)
    # Read anew: other streams may have been finished meanwhile.
    entries = dataset.read_streams(directory) | {encoder.stream.name: entry}
    files.write_text(directory / 'streams.json', json.dumps(entries, indent=2, sort_keys=True) + '\n')
    if rejected:
      report = directory / 'rejected.jsonl'
      earlier = files.read_lines(report) if report.exists() else []
      files.write_lines(report, [row for row in earlier if row not in rejected] + rejected)
    records.part_path(directory, encoder.stream, 'train', 0).parent.rmtree(missing_ok=True)
  return sum(len(part.clips) for part in parts)


def _rejected(directory: epath.Path, stream: Stream, parts: Sequence[Part]) -> list[dict]:
  there = stores.sizes(records.part_path(directory, stream, 'train', 0).parent)
  paths = (parts_lib.rejected_path(part.path(directory, stream)) for part in parts)
  return [row for path in paths if path.name in there for row in files.read_lines(path)]


def parts_a_shard(stream: Stream, seconds: float, clips: int, clips_a_part: int, shard_bytes: int) -> int:
  """Parts that make a shard of about `shard_bytes`, for clips that last `seconds` together."""
  a_clip = stream.length(seconds / clips) * stream.width * stream.dtype.itemsize
  return max(1, round(shard_bytes / max(a_clip * clips_a_part, 1)))


def _finish_stream(
  directory: epath.Path, encoder: Encoder, parts: Sequence[Part], clips_a_part: int, shard_bytes: int
) -> dict:
  """Makes shards of parts, and the index; returns the stream's entry for `streams.json`."""
  stream = encoder.stream
  folder = records.folder(directory, stream)
  folder.mkdir(parents=True, exist_ok=True)
  tables = {split: table.ClipTable(directory, split) for split in table.SPLITS}
  clips = {split: len(rows) for split, rows in tables.items() if len(rows)}
  earlier = dataset.read_streams(directory).get(stream.name)
  if earlier:
    clips_a_shard = earlier['clips_a_shard']
  else:
    seconds = sum(float(rows.columns['duration'].sum()) for rows in tables.values())
    clips_a_shard = clips_a_part * parts_a_shard(
      stream, seconds, sum(clips.values()), clips_a_part, shard_bytes
    )
  counts = {split: -(-count // clips_a_shard) for split, count in clips.items()}
  with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool, terminal.Progress(quiet=True) as progress:
    for split, count in counts.items():
      groups: dict[int, list[epath.Path]] = {}
      for part in parts:
        if part.split == split:
          groups.setdefault(part.clips.start // clips_a_shard, []).append(part.path(directory, stream))
      if not groups:
        continue
      path = functools.partial(records.shard_path, folder, stream, split, shards=count)
      made = pool.map(records.join, groups.values(), (path(shard=n) for n in groups))
      index = dict(zip(groups, progress.track(made, len(groups), f'{stream.name}, {split}'), strict=True))
      if len(groups) < count:  # the others are as they were
        before = shards.read_index(folder, stream, split, count)
        rows = {n: before[n * clips_a_shard : (n + 1) * clips_a_shard] for n in range(count)} | index
        index = {n: rows[n] for n in range(count)}
      files.write_array(records.split_index_path(folder, stream, split), np.concatenate(list(index.values())))
  _write_metadata(folder, stream, clips, clips_a_shard)
  return {
    'name': stream.name,
    'kind': stream.kind,
    'rate': str(stream.rate),
    'width': stream.width,
    'codes': stream.codes,
    'version': records.VERSION,
    'shards': counts,
    'clips_a_shard': clips_a_shard,
    'made_by': encoder.identity,
  }


def _write_metadata(folder: epath.Path, stream: Stream, clips: dict[str, int], clips_a_shard: int) -> None:
  """What TFDS needs to read the shards as a dataset of its own."""
  import tensorflow_datasets as tfds

  name = records.dataset_name(stream)
  template = tfds.core.ShardedFileTemplate(
    template='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    data_dir=folder,
    dataset_name=name,
    filetype_suffix='tfrecord',
  )
  infos, sizes = [], stores.sizes(folder)
  for split, count in clips.items():
    lengths = [min(clips_a_shard, count - at) for at in range(0, count, clips_a_shard)]
    paths = [records.shard_path(folder, stream, split, n, len(lengths)) for n in range(len(lengths))]
    infos.append(
      tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths,
        num_bytes=sum(sizes[path.name] for path in paths),
        filename_template=template.replace(split=split),
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=records.features(stream),
    split_infos=infos,
    filename_template=template,
    check_data=False,
    description=f'Stream {stream.name} of a v2meow dataset.',
  )


def convert(directory: epath.PathLike) -> None:
  """Gives a dataset of an earlier version the columns and indexes by which it opens quickly."""
  directory = epath.Path(directory)
  table.write_columns(directory)
  for entry in dataset.read_streams(directory).values():
    stream = dataset.stream_of(entry)
    folder = records.folder(directory, stream)
    for split, count in entry['shards'].items():
      path = records.split_index_path(folder, stream, split)
      if not path.exists():
        files.write_array(path, shards.read_index(folder, stream, split, count))
