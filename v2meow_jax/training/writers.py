"""Who else is told a run's numbers: TensorBoard, Weights & Biases, MLflow, behind one interface.

`train.writers = (@Wandb(),)` in gin adds one; each is an extra of its own.
"""

import hashlib
import io
import pathlib
import struct
import sys
import tempfile
import time
import types
import wave
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from etils import epath

import gin
from v2meow_jax import errors, stores

UPLOAD_SECONDS = 60.0


class Writer(Protocol):
  """Is told what a run writes."""

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Scalars of a step, as `train/loss`."""
    ...

  def media(self, step: int, files: Mapping[str, bytes]) -> None:
    """PNG and WAV files of a step by their names."""
    ...

  def close(self) -> None:
    """Nothing more comes."""
    ...


Open = Callable[[epath.Path], Writer]  # of the run's directory; called when the run begins or goes on


def identity(run_dir: epath.Path) -> str:
  """By which a service knows a run again when it goes on: of its path, so that no file need be kept."""
  return hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:16]


class TensorBoard:
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
    """See `Writer`."""
    self._add(step, [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()])

  def media(self, step: int, files: Mapping[str, bytes]) -> None:
    """See `Writer`."""
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
    """See `Writer`."""
    self._writer.close()
    if self._local:
      self._upload()
      self._local.cleanup()


class _Wandb:
  """See `Wandb`."""

  def __init__(self, run: Any, wandb: Any):
    self._run, self._wandb = run, wandb
    # Steps of a run that was killed are written again, which W&B's own counter forbids.
    run.define_metric('step')
    run.define_metric('*', step_metric='step')

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """See `Writer`."""
    self._run.log({'step': step, **scalars})

  def media(self, step: int, files: Mapping[str, bytes]) -> None:
    """See `Writer`."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
      for name, data in files.items():
        path = pathlib.Path(folder, name)
        path.write_bytes(data)
        if name.endswith('.png'):
          found[name] = self._wandb.Image(str(path))
        elif name.endswith('.wav'):
          found[name] = self._wandb.Audio(str(path))
      self._run.log({'step': step, **found})

  def close(self) -> None:
    """See `Writer`."""
    self._run.finish()


@gin.register
class Wandb:
  """Tells Weights & Biases (extra `wandb`); a run that goes on is the same run there.

  Args:
    project: that the run belongs to.
    mode: `online`, `offline` (files in the run's directory, for `wandb sync`), or as its own variables say.
  """

  def __init__(self, project: str = 'v2meow', mode: str | None = None):
    self._project, self._mode = project, mode

  def __call__(self, run_dir: epath.Path) -> Writer:
    """Begins, or goes on.

    Raises:
      errors.ConfigError: the extra is not installed, or the service refuses.
    """
    wandb = _imported('wandb', 'wandb')
    local = str(run_dir) if '://' not in str(run_dir) else None
    with errors.translated(errors.ConfigError, 'Weights & Biases: the run cannot be begun'):
      run = wandb.init(
        project=self._project, id=identity(run_dir), name='/'.join(run_dir.parts[-3:]), resume='allow',
        mode=self._mode, dir=local,
      )  # fmt: skip
    return _Wandb(run, wandb)


class _Mlflow:
  """See `Mlflow`."""

  def __init__(self, client: Any, run: str):
    self._client, self._run = client, run

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """See `Writer`."""
    for name, value in scalars.items():
      self._client.log_metric(self._run, name, value, step=step)

  def media(self, step: int, files: Mapping[str, bytes]) -> None:
    """See `Writer`."""
    with tempfile.TemporaryDirectory() as folder:
      for name, data in files.items():
        path = pathlib.Path(folder, name)
        path.write_bytes(data)
        self._client.log_artifact(self._run, str(path), f'step_{step}')

  def close(self) -> None:
    """See `Writer`."""
    self._client.set_terminated(self._run)


@gin.register
class Mlflow:
  """Tells an MLflow server (extra `mlflow`); a run that goes on is the same run there.

  Args:
    experiment: that the run belongs to; made where there is none.
    tracking_uri: of the server; as MLflow's own variables say by default.
  """

  def __init__(self, experiment: str = 'v2meow', tracking_uri: str | None = None):
    self._experiment, self._uri = experiment, tracking_uri

  def __call__(self, run_dir: epath.Path) -> Writer:
    """Begins, or goes on.

    Raises:
      errors.ConfigError: the extra is not installed, or the server cannot be used.
    """
    mlflow = _imported('mlflow', 'mlflow')
    with errors.translated(errors.ConfigError, 'MLflow: the run cannot be begun'):
      client = mlflow.MlflowClient(tracking_uri=self._uri)
      found = client.get_experiment_by_name(self._experiment)
      experiment = found.experiment_id if found else client.create_experiment(self._experiment)
      mark = identity(run_dir)
      runs = client.search_runs([experiment], f"tags.v2meow_run = '{mark}'", max_results=1)
      if runs:
        run = runs[0].info.run_id
        client.set_terminated(run, 'RUNNING')
      else:
        name = '/'.join(run_dir.parts[-3:])
        run = client.create_run(experiment, tags={'v2meow_run': mark}, run_name=name).info.run_id
    return _Mlflow(client, run)


def _imported(name: str, extra: str) -> Any:
  try:
    return __import__(name)
  except ImportError as error:
    raise errors.ConfigError(f'{name} is not installed; it comes with the extra "{extra}"') from error
