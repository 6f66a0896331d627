"""Runs encoders over the clips and writes their streams, shard by shard, in several processes.

Whatever is complete stays: an interrupted preparation goes on where it was, and a later one adds
streams beside those that are there. A clip that an encoder fails on gets an empty record in that
stream, so that all streams keep the same records, and a line in `rejected.jsonl`.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from etils import epath
from rich.console import Console
from rich.progress import Progress

from v2meow_jax import errors, files
from v2meow_jax.data import dataset, manifest, records
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.media.clip import MediaClip


def make_table(
  manifest_path: pathlib.Path,
  directory: pathlib.Path,
  *,
  validation_share: float = 0.05,
  clip_seconds: float = 60.0,
  least_seconds: float = 5.0,
) -> list[dataset.Clip]:
  """Writes the clip table of a manifest, or checks that the one there is the manifest's.

  Raises:
    errors.DatasetError: no row can be used, or the directory holds another manifest's clips.
  """
  rows, rejected = manifest.read(manifest_path)
  clips, unreadable = manifest.cut(rows, validation_share, clip_seconds, least_seconds)
  if not clips:
    reason = (rejected + unreadable)[0]['reason'] if rejected + unreadable else 'it is empty'
    raise errors.DatasetError(f'{manifest_path}: no row can be used; the first reason: {reason}')
  directory.mkdir(parents=True, exist_ok=True)
  table = directory / 'clips.jsonl'
  if table.exists() and dataset.read_clips(directory) != clips:
    raise errors.DatasetError(
      f'{directory}: it holds the clips of another manifest or other settings; name an empty directory'
    )
  files.write_lines(table, [dataclasses.asdict(clip) for clip in clips])
  files.write_lines(directory / 'rejected.jsonl', rejected + unreadable)
  return clips


@dataclasses.dataclass(frozen=True)
class _Job:
  """One shard of all streams to be made."""

  directory: pathlib.Path
  encoders: tuple[Encoder, ...]
  split: str
  shard: int
  shards: int
  clips: tuple[dataset.Clip, ...]

  def path(self, encoder: Encoder) -> pathlib.Path:
    folder = self.directory / encoder.stream.name / dataset.VERSION
    return records.shard_path(folder, encoder.stream, self.split, self.shard, self.shards)

  @property
  def todo(self) -> tuple[Encoder, ...]:
    return tuple(e for e in self.encoders if not records.index_path(self.path(e)).exists())


def _run(job: _Job) -> list[dict]:
  """Makes a shard; returns what was rejected."""
  rejected = []
  rows: dict[str, list] = {encoder.stream.name: [] for encoder in job.todo}
  for clip in job.clips:
    media = MediaClip(clip.video, clip.audio, clip.start, clip.duration)
    for encoder in job.todo:
      stream = encoder.stream
      try:
        elements = np.asarray(encoder.encode_clip(media))
        if not np.isfinite(elements).all():
          raise errors.MediaError(f'clip {clip.id}: {stream.name} has values that are not finite')
      except (errors.MediaError, ValueError) as error:
        elements = np.zeros((0, stream.width))
        rejected.append({'id': clip.id, 'stream': stream.name, 'reason': str(error)})
      rows[stream.name].append((clip.id, elements))
  for encoder in job.todo:
    records.write_shard(job.path(encoder), encoder.stream, rows[encoder.stream.name])
  return rejected


def _quiet_worker() -> None:
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'


def prepare_streams(
  directory: pathlib.Path, encoders: Sequence[Encoder], *, workers: int = 2, clips_a_shard: int = 16
) -> tuple[int, list[dict]]:
  """Adds streams to the dataset in `directory`.

  Args:
    directory: with a clip table.
    encoders: one a stream.
    workers: processes.
    clips_a_shard: clips in a shard; the same for every stream of a dataset.

  Returns:
    (clips, rejected).

  Raises:
    errors.DatasetError: a stream is there already, made by something else.
  """
  clips = dataset.read_clips(directory)
  entries = dataset.read_streams(directory)
  if entries:
    clips_a_shard = next(iter(entries.values()))['clips_a_shard']
  counts = dataset.shard_counts(clips, clips_a_shard)
  encoders = [encoder for encoder in encoders if not _is_done(directory, entries, encoder)]
  for encoder in encoders:
    _begin(directory, encoder)
  jobs = []
  for split, count in counts.items():
    members = [clip for clip in clips if clip.split == split]
    for shard in range(count):
      part = tuple(members[shard * clips_a_shard : (shard + 1) * clips_a_shard])
      job = _Job(directory, tuple(encoders), split, shard, count, part)
      if job.todo:
        jobs.append(job)
  rejected = _run_all(jobs, workers)
  known = directory / 'rejected.jsonl'
  earlier = [json.loads(line) for line in known.read_text().splitlines()] if known.exists() else []
  files.write_lines(known, earlier + rejected)
  for encoder in encoders:
    entries[encoder.stream.name] = _finish(directory, encoder, clips, counts, clips_a_shard)
    files.write_text(directory / 'streams.json', json.dumps(entries, indent=2, sort_keys=True) + '\n')
  return len(clips), rejected


def _run_all(jobs: list[_Job], workers: int) -> list[dict]:
  rejected: list[dict] = []
  if not jobs:
    return rejected
  if workers <= 1:
    for job in jobs:
      rejected += _run(job)
    return rejected
  # Spawned: JAX and TensorFlow run threads that do not survive a fork.
  context = multiprocessing.get_context('spawn')
  pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_quiet_worker)
  try:
    with Progress(console=Console(stderr=True)) as progress:
      task = progress.add_task('preparing', total=len(jobs))
      for future in concurrent.futures.as_completed([pool.submit(_run, job) for job in jobs]):
        rejected += future.result()
        progress.advance(task)
  finally:
    pool.shutdown(cancel_futures=True)
  return rejected


def _is_done(directory: pathlib.Path, entries: dict, encoder: Encoder) -> bool:
  entry = entries.get(encoder.stream.name)
  if entry is None:
    return False
  if entry['made_by'] != json.loads(json.dumps(encoder.identity)):
    raise errors.DatasetError(
      f'{directory}: stream {encoder.stream.name!r} is there already, made by another encoder or other '
      'weights; use another directory, or delete that stream and its entry in streams.json'
    )
  return True


def _begin(directory: pathlib.Path, encoder: Encoder) -> None:
  """Makes the stream's folder; drops what another encoder had left there unfinished."""
  folder = directory / encoder.stream.name / dataset.VERSION
  folder.mkdir(parents=True, exist_ok=True)
  mark = folder / 'made_by.json'
  identity = json.dumps(encoder.identity, sort_keys=True)
  if not mark.exists() or mark.read_text() != identity:
    for old in folder.iterdir():
      old.unlink()
    files.write_text(mark, identity)


def _finish(
  directory: pathlib.Path, encoder: Encoder, clips: list, counts: dict[str, int], clips_a_shard: int
) -> dict:
  """Writes TFDS's metadata; returns the stream's entry for `streams.json`."""
  import tensorflow_datasets as tfds

  stream = encoder.stream
  folder = directory / stream.name / dataset.VERSION
  name = records.dataset_name(stream)
  template = tfds.core.ShardedFileTemplate(
    template='{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    data_dir=epath.Path(folder),
    dataset_name=name,
    filetype_suffix='tfrecord',
  )
  infos = []
  for split, count in counts.items():
    members = sum(clip.split == split for clip in clips)
    lengths = [min(clips_a_shard, members - shard * clips_a_shard) for shard in range(count)]
    size = sum(
      records.shard_path(folder, stream, split, shard, count).stat().st_size for shard in range(count)
    )
    infos.append(
      tfds.core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=size, filename_template=template.replace(split=split)
      )
    )
  tfds.folder_dataset.write_metadata(
    data_dir=str(folder),
    features=records.features(stream),
    split_infos=infos,
    filename_template=template,
    check_data=False,
    description=f'Stream {stream.name} of a v2meow dataset.',
  )
  return {
    'name': stream.name,
    'kind': stream.kind,
    'rate': str(stream.rate),
    'width': stream.width,
    'codes': stream.codes,
    'version': dataset.VERSION,
    'shards': counts,
    'clips_a_shard': clips_a_shard,
    'made_by': encoder.identity,
  }
