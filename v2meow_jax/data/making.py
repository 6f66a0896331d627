"""Makes the parts that are not there yet, with a line that says how far it is."""

import functools
import json
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from v2meow_jax import files, terminal
from v2meow_jax.data import dataset, engines, records, table
from v2meow_jax.data import parts as parts_lib
from v2meow_jax.data.parts import Part
from v2meow_jax.encoders.base import Encoder

Engine = Callable[[epath.Path, Sequence[Encoder], Sequence[engines.Job]], Iterator[engines.Done]]


def make_parts(
  directory: epath.PathLike,
  encoders: Sequence[Encoder],
  *,
  processes: int = 2,
  share: tuple[int, int] = (0, 1),
  clips_a_part: int = parts_lib.CLIPS_A_PART,
  engine: Engine | None = None,
) -> list[dict]:
  """Makes the records of a share of the parts, where they are not there.

  Args:
    directory: with a clip table.
    encoders: one a stream.
    processes: that work at once, on this machine.
    share: (i, n): every n-th part from the i-th on.
    clips_a_part: the same for all shares.
    engine: that runs the jobs; None: this machine, see `engines.local`.

  Returns:
    What was rejected.

  Raises:
    errors.DatasetError: a stream is there already, made by something else.
  """
  directory = epath.Path(directory)
  parts = parts_lib.parts_of(directory, clips_a_part)
  mine = set(parts[share[0] :: share[1]])
  jobs: dict[Part, list[str]] = {}
  for encoder in encoders:
    wanted = parts_lib.needed(directory, encoder, parts, clips_a_part)
    if wanted:
      _begin(directory, encoder, clips_a_part)
    for part in parts_lib.unmade(directory, encoder.stream, wanted):
      if part in mine:
        jobs.setdefault(part, []).append(encoder.stream.name)
  rejected: list[dict] = []
  durations = {split: table.ClipTable(directory, split).columns['duration'] for split in table.SPLITS}
  hours = {part: durations[part.split][part.clips.start : part.clips.stop].sum() / 3600 for part in jobs}
  whole, done = sum(hours.values()), 0.0
  with terminal.Progress() as progress:
    if jobs:
      progress.update('parts', 0, len(jobs))
    engine = engine or functools.partial(engines.local, processes=processes)
    for number, (part, rows) in enumerate(engine(directory, encoders, list(jobs.items())), 1):
      rejected += rows
      done += hours[part]
      progress.update('parts', number, len(jobs), f'{done:.2f} of {whole:.2f} h of media')
  return rejected


def _begin(directory: epath.Path, encoder: Encoder, clips_a_part: int) -> None:
  """Makes the folder of a stream's parts; drops what another encoder or size had left there."""
  folder = records.part_path(directory, encoder.stream, 'train', 0).parent
  folder.mkdir(parents=True, exist_ok=True)
  mark = folder / 'made_by.json'
  told = json.dumps({'made_by': encoder.identity, 'clips_a_part': clips_a_part}, sort_keys=True)
  if mark.exists():
    if mark.read_text() == told:
      return
    for old in folder.iterdir():
      old.unlink()
  elif encoder.stream.name not in dataset.read_streams(directory):
    # Shards of another encoder's, whose entry was deleted, could be as long as those that are made now.
    records.folder(directory, encoder.stream).rmtree(missing_ok=True)
  # Written before any part is: where there is no mark, others that begin now are not to be disturbed.
  files.write_text(mark, told)
