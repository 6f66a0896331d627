"""Where a run's numbers go: `metrics.jsonl`, further writers, and a line on the terminal."""

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from v2meow_jax import files, stores, terminal
from v2meow_jax.training.writers import UPLOAD_SECONDS, Open, TensorBoard, Writer


class MetricWriter:
  """Writes scalars of a run.

  A line of `metrics.jsonl` is `{"step": n, "split": "train", "time": seconds, name: value, ...}`.
  On resuming at a step, lines of later steps (of a run that was killed) are dropped first. Lines are
  appended; to an object store, which appends nothing, the whole is written every minute and at the end.
  TensorBoard sees the same where it is installed, and so do further writers.

  Args:
    run_dir: the run's.
    step: that it goes on from.
    also: makes further writers, each of the run's directory.
  """

  def __init__(self, run_dir: epath.PathLike, step: int = 0, also: Sequence[Open] = ()):
    self._path = epath.Path(run_dir) / 'metrics.jsonl'
    self._lines: list[str] = []
    if self._path.exists():
      kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= step]
      self._lines = kept if step else []
    self._whole()
    self._writers: list[Writer] = []
    with contextlib.suppress(ImportError):
      self._writers.append(TensorBoard(epath.Path(run_dir) / 'events'))
    self._writers += [make(epath.Path(run_dir)) for make in also]

  def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
    """Records the scalars of one step."""
    values = {name: float(value) for name, value in scalars.items()}
    self._lines.append(json.dumps({'step': step, 'split': split, 'time': round(time.time(), 3), **values}))
    if not stores.is_remote(self._path):
      with open(self._path, 'a') as file:
        file.write(self._lines[-1] + '\n')
    elif time.monotonic() - self._written > UPLOAD_SECONDS:
      self._whole()
    for writer in self._writers:
      writer.write(step, {f'{split}/{name}': value for name, value in values.items()})

  def media(self, step: int, directory: epath.Path) -> None:
    """Shows the PNG and WAV files of a folder, by their names."""
    for writer in self._writers:
      writer.media(step, {path.name: path.read_bytes() for path in sorted(directory.iterdir())})

  def forget_after(self, step: int) -> None:
    """Drops the lines of later steps, which the run has gone back behind."""
    self._lines = [line for line in self._lines if _step_of(line) <= step]
    self._whole()

  def _whole(self) -> None:
    files.write_text(self._path, ''.join(line + '\n' for line in self._lines))
    self._written = time.monotonic()

  def close(self) -> None:
    """Closes what is open."""
    if stores.is_remote(self._path):
      self._whole()
    for writer in self._writers:
      writer.close()


def _step_of(line: str) -> int:
  try:
    return json.loads(line)['step']
  except (json.JSONDecodeError, KeyError):
    return sys.maxsize  # a half-written last line


def mean(rows: list[dict], weights: list[float] | None = None) -> dict[str, float]:
  """Weighted mean of scalars over rows, of each over those rows that had something to measure it by."""
  counts = np.ones(len(rows)) if weights is None else np.asarray(weights)
  found = {}
  for key in rows[0]:
    values = np.array([row[key] for row in rows])
    # A loss that is not a number is to be seen.
    there = ~np.isnan(values) | ('_dataset/' not in key)
    if there.any():
      found[key] = float(np.average(values[there], weights=counts[there]))
  return found


def summary(rows: list[dict]) -> dict[str, float]:
  """Mean over the steps that counted, and the number of those that were skipped."""
  counted = [row for row in rows if not row['skipped']] or rows
  return mean(counted) | {'skipped': sum(row['skipped'] for row in rows)}


class Silence:
  """Takes the place of writer and progress where another process writes."""

  def __getattr__(self, name):
    return lambda *args, **kwargs: None


class TrainingProgress:
  """A line that is updated on a terminal; a line of metrics now and then where the output is a file."""

  def __init__(self, total: int, start: int):
    self._line = terminal.Progress(quiet=True)
    self._total = total
    self.advance(start)

  def advance(self, step: int) -> None:
    """Moves the line."""
    self._line.update('training', step, self._total)

  def note(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
    """Shows the scalars."""
    text = '  '.join(f'{name} {value:.4g}' for name, value in scalars.items())
    if self._line.live and split == 'train':
      self._line.update('training', step, self._total, note=text[:60])
    else:
      self._line.say(f'step {step}/{self._total}  {split}: {text}')

  def close(self) -> None:
    """Leaves the terminal as it was."""
    self._line.close()
