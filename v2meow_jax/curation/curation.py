"""From a manifest to a table of clips through filters: measured, judged as a whole, cut, judged, split."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from etils import epath

import gin
from v2meow_jax import description, errors
from v2meow_jax.curation import measuring, summary
from v2meow_jax.curation.filters import Candidate, Filter
from v2meow_jax.curation.measuring import Measured
from v2meow_jax.curation.scenes import Scenes
from v2meow_jax.data import manifest, preparation, splits
from v2meow_jax.data.table import Clip


@gin.register
@dataclasses.dataclass(frozen=True)
class Curation:
  """What keeps media out of a dataset, and where it is cut.

  Attributes:
    filters: in the order in which they judge.
    scenes: where clips end; None: they are as long as they may be.
    split_by: keys of the manifest besides `source` of which no value is in both splits, such as `artist`.
  """

  filters: tuple[Filter, ...] = ()
  scenes: Scenes | None = None
  split_by: tuple[str, ...] = ()

  @property
  def kinds(self) -> list[str]:
    """What has to be measured."""
    wanted = {kind for one in self.filters for kind in one.needs} | set(
      self.scenes.needs if self.scenes else ()
    )
    return [kind for kind in measuring.KINDS if kind in wanted]


@dataclasses.dataclass
class _Judged:
  """What filters have said so far."""

  rejected: list[dict] = dataclasses.field(default_factory=list)
  stages: list[dict] = dataclasses.field(default_factory=list)
  samples: list[tuple[str, Candidate]] = dataclasses.field(default_factory=list)
  together: list[tuple[str, str]] = dataclasses.field(default_factory=list)

  def judge(self, stage: Filter, candidates: Sequence[Candidate]) -> list[bool]:
    """Which of the candidates stay."""
    reasons, together = stage.judge(candidates)
    self.together += together
    name = type(stage).__name__
    out = [(candidate, why) for candidate, why in zip(candidates, reasons, strict=True) if why]
    self.rejected += [
      {'id': one.id, 'filter': name, 'reason': why, 'seconds': round(one.seconds, 3)} for one, why in out
    ]
    self.samples += [(f'{name}: {why}', one) for one, why in out[:1]]
    self.stages.append(
      {
        'filter': name,
        'settings': description.describe(stage),
        'of': 'rows' if stage.whole else 'clips',
        'judged': len(candidates),
        'rejected': len(out),
        'hours_rejected': math.fsum(one.seconds for one, _ in out) / 3600,
      }
    )
    return [not why for why in reasons]


def make_table(
  manifest_path: pathlib.Path,
  directory: epath.PathLike,
  curation: Curation,
  *,
  validation_share: float = 0.05,
  clip_seconds: float = 60.0,
  least_seconds: float = 5.0,
  processes: int = 2,
  media: pathlib.Path | None = None,
) -> int:
  """Writes the clip table of what passes the filters, `rejected.jsonl`, `summary.json` and `summary.html`.

  Measures what has not been measured. Returns the number of clips.

  Raises:
    errors.DatasetError: nothing is left, or the directory holds another manifest's clips or those of other
      filters.
  """
  rows, rejected = manifest.read(manifest_path, media)
  measuring.measure(directory, rows, curation.kinds, processes=processes)
  measured = measuring.read(directory, rows, curation.kinds)
  judged = _Judged()
  kept = _whole(rows, measured, curation, judged)
  rows, measured = [rows[n] for n in kept], [measured[n] for n in kept]
  clips, candidates = _clips(rows, measured, curation, judged, clip_seconds, least_seconds)
  of_source = splits.assign(
    [row for row in rows if row['source'] in {clip.source for clip in clips}],
    validation_share,
    curation.split_by,
    judged.together,
  )
  clips = [dataclasses.replace(clip, split=of_source[clip.source]) for clip in clips]
  preparation.write_table(directory, manifest_path, clips, rejected + judged.rejected)
  summary.write(
    epath.Path(directory), summary.of_candidates(clips, candidates, judged.stages), judged.samples
  )
  return len(clips)


def _whole(
  rows: Sequence[dict], measured: Sequence[Measured], curation: Curation, judged: _Judged
) -> list[int]:
  """Numbers of the rows that can be read and pass the filters of whole rows."""
  candidates: list[tuple[int, Candidate]] = []
  for number, (row, one) in enumerate(zip(rows, measured, strict=True)):
    if one.reason or one.span is None:
      judged.rejected.append({'id': row['id'], 'reason': one.reason or 'it could not be read'})
    else:
      candidates.append((number, Candidate(row['id'], row['source'], 0.0, one.span.seconds, one.span, one)))
  for stage in curation.filters:
    if stage.whole:
      stay = judged.judge(stage, [candidate for _, candidate in candidates])
      candidates = [pair for pair, stays in zip(candidates, stay, strict=True) if stays]
  return [number for number, _ in candidates]


def _clips(
  rows: Sequence[dict],
  measured: Sequence[Measured],
  curation: Curation,
  judged: _Judged,
  clip_seconds: float,
  least_seconds: float,
) -> tuple[list[Clip], list[Candidate]]:
  spans = [one.span if one.span else errors.MediaError('') for one in measured]
  scenes = curation.scenes

  def bounds(number: int) -> list[float]:
    return scenes.bounds(measured[number]) if scenes else []

  clips, numbers, short = manifest.cut(rows, spans, clip_seconds, least_seconds, bounds)
  judged.rejected += short
  candidates = []
  for clip, number in zip(clips, numbers, strict=True):
    one = measured[number]
    assert one.span is not None
    candidates.append(
      Candidate(clip.id, clip.source, clip.start - one.span.start, clip.duration, one.span, one)
    )
  for stage in curation.filters:
    if not stage.whole:
      stay = judged.judge(stage, candidates)
      clips = [clip for clip, stays in zip(clips, stay, strict=True) if stays]
      candidates = [candidate for candidate, stays in zip(candidates, stay, strict=True) if stays]
  return clips, candidates
