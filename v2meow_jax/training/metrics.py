"""Where a run's numbers go: `metrics.jsonl`, TensorBoard, and a line on the terminal."""

import io
import json
import pathlib
import struct
import sys
import tempfile
import time
import types
import wave
from collections.abc import Mapping

import numpy as np
from etils import epath

from v2meow_jax import stores, terminal

UPLOAD_SECONDS = 60.0


class _Events:
  """TensorBoard's own event writer.

  It appends, which object stores cannot: for one, the file is written on this machine and its whole is
  uploaded every minute.

  Raises:
    ImportError: TensorBoard is not installed.
  """

  def __init__(self, path: epath.Path):
    # A module of this name tells TensorBoard to do without TensorFlow, which would take seconds to import,
    # and memory of the GPU.
    sys.modules.setdefault('tensorboard.compat.notf', types.ModuleType('tensorboard.compat.notf'))
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[attr-defined] (generated at import)
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    self._event, self._summary = Event, Summary
    self._path, self._local, self._uploaded = path, None, time.monotonic()
    if stores.is_remote(path):
      self._local = tempfile.TemporaryDirectory()
    self._writer = EventFileWriter(self._local.name if self._local else str(path))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    self._add(step, [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()])

  def media(self, step: int, files: Mapping[str, bytes]) -> None:
    values = []
    for name, data in files.items():
      if name.endswith('.png'):
        width, height = struct.unpack('>II', data[16:24])  # of the header chunk, which comes first
        image = self._summary.Image(height=height, width=width, colorspace=4, encoded_image_string=data)
        values.append(self._summary.Value(tag=name, image=image))
      elif name.endswith('.wav'):
        with wave.open(io.BytesIO(data)) as file:
          about = {'num_channels': file.getnchannels(), 'length_frames': file.getnframes()}
          rate = file.getframerate()
        sound = self._summary.Audio(
          sample_rate=rate, encoded_audio_string=data, content_type='audio/wav', **about
        )
        values.append(self._summary.Value(tag=name, audio=sound))
    self._add(step, values)

  def _add(self, step: int, values: list) -> None:
    self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
    self._writer.flush()
    if self._local and time.monotonic() - self._uploaded > UPLOAD_SECONDS:
      self._upload()

  def _upload(self) -> None:
    assert self._local is not None
    self._path.mkdir(parents=True, exist_ok=True)
    for file in pathlib.Path(self._local.name).iterdir():
      (self._path / file.name).write_bytes(file.read_bytes())
    self._uploaded = time.monotonic()

  def close(self) -> None:
    self._writer.close()
    if self._local:
      self._upload()
      self._local.cleanup()


class MetricWriter:
  """Writes scalars of a run.

  A line of `metrics.jsonl` is `{"step": n, "split": "train", "time": seconds, name: value, ...}`.
  On resuming at a step, lines of later steps (of a run that was killed) are dropped first. Lines are
  appended; to an object store, which appends nothing, the whole is written every minute and at the end.
  """

  def __init__(self, run_dir: epath.PathLike, step: int = 0):
    self._path = epath.Path(run_dir) / 'metrics.jsonl'
    self._lines: list[str] = []
    if self._path.exists():
      kept = [line for line in self._path.read_text().splitlines() if _step_of(line) <= step]
      self._lines = kept if step else []
    self._flush()
    try:
      self._events = _Events(epath.Path(run_dir) / 'events')
    except ImportError:
      self._events = None

  def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
    """Records the scalars of one step."""
    values = {name: float(value) for name, value in scalars.items()}
    self._lines.append(json.dumps({'step': step, 'split': split, 'time': round(time.time(), 3), **values}))
    self._flush()
    if self._events:
      self._events.write(step, {f'{split}/{name}': value for name, value in values.items()})

  def media(self, step: int, directory: epath.Path) -> None:
    """Shows the PNG and WAV files of a folder in TensorBoard, by their names."""
    if self._events:
      self._events.media(step, {path.name: path.read_bytes() for path in sorted(directory.iterdir())})

  def forget_after(self, step: int) -> None:
    """Drops the lines of later steps, which the run has gone back behind."""
    self._lines = [line for line in self._lines if _step_of(line) <= step]
    self._flush()

  def _flush(self) -> None:
    # Written whole each time: object stores append nothing, and the file stays small.
    self._path.write_text(''.join(line + '\n' for line in self._lines))

  def close(self) -> None:
    """Closes the event file."""
    if self._events:
      self._events.close()


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
    there = ~np.isnan(values) | (not key.startswith('loss_dataset/'))
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
