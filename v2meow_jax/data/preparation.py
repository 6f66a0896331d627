"""Runs encoders over the clips and writes their streams, shard by shard, in several processes.

Whatever is complete stays: an interrupted preparation goes on where it was, and a later one adds
streams beside those that are there. A clip that an encoder fails on gets an empty record in that
stream, so that all streams keep the same records, and a line in `rejected.jsonl`.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from v2meow_jax import errors, files, terminal, workers
from v2meow_jax.data import dataset, manifest, records
from v2meow_jax.encoders.base import Encoder
from v2meow_jax.media.clip import MediaClip
from v2meow_jax.streams import Stream


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
  report = directory / 'rejected.jsonl'
  of_streams = [row for row in files.read_lines(report) if 'stream' in row] if report.exists() else []
  files.write_lines(report, rejected + unreadable + of_streams)
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


def _run(job: _Job) -> list[dict]:
  """Makes a shard; returns what was rejected."""
  rejected = []
  rows: dict[str, list] = {encoder.stream.name: [] for encoder in job.todo}
  for clip in job.clips:
    media = MediaClip(clip.video, clip.audio, clip.start, clip.duration, clip.caption)
    for encoder in job.todo:
      stream = encoder.stream
      try:
        elements = stored(stream, np.asarray(encoder.encode_clip(media)))
      except (errors.MediaError, ValueError) as error:
        elements = np.zeros((0, stream.width))
        rejected.append({'id': clip.id, 'stream': stream.name, 'reason': str(error)})
      rows[stream.name].append((clip.id, elements))
  for encoder in job.todo:
    records.write_shard(job.path(encoder), encoder.stream, rows[encoder.stream.name])
  return rejected


def _quiet_worker() -> None:
  terminal.hush()
  require_tensorflow()


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
  for encoder in encoders:
    _check_maker(directory, entries, encoder)
    _begin(directory, encoder)
  jobs = []
  for split, count in counts.items():
    members = [clip for clip in clips if clip.split == split]
    for shard in range(count):
      part = tuple(members[shard * clips_a_shard : (shard + 1) * clips_a_shard])
      job = _Job(directory, tuple(encoders), split, shard, count, part)
      if job.todo:
        jobs.append(job)
  rejected = _run_all(jobs, workers, directory / 'rejected.jsonl')
  for encoder in encoders:
    entries[encoder.stream.name] = _finish(directory, encoder, clips, counts, clips_a_shard)
    files.write_text(directory / 'streams.json', json.dumps(entries, indent=2, sort_keys=True) + '\n')
  return len(clips), rejected


def _run_all(jobs: list[_Job], count: int, report: pathlib.Path) -> list[dict]:
  """Runs the jobs and adds what they reject to the report, shard by shard: an interruption loses none."""
  rejected: list[dict] = []
  earlier = files.read_lines(report) if report.exists() else []

  def note(rows: list[dict]) -> None:
    if rows:
      rejected.extend(rows)
      files.write_lines(report, earlier + rejected)

  if not jobs:
    return rejected
  if count <= 1:
    with terminal.Progress() as progress:
      for job in progress.track(jobs, len(jobs), 'shards'):
        note(_run(job))
    return rejected
  with workers.pool(min(count, len(jobs)), _quiet_worker) as pool, terminal.Progress() as progress:
    futures = [pool.submit(_run, job) for job in jobs]
    for future in progress.track(concurrent.futures.as_completed(futures), len(jobs), 'shards'):
      note(future.result())
  return rejected


def _check_maker(directory: pathlib.Path, entries: dict, encoder: Encoder) -> None:
  entry = entries.get(encoder.stream.name)
  if entry is not None and entry['made_by'] != json.loads(json.dumps(encoder.identity)):
    raise errors.DatasetError(
      f'{directory}: stream {encoder.stream.name!r} is there already, made by another encoder or other '
      'weights; use another directory, or delete that stream and its entry in streams.json'
    )


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
