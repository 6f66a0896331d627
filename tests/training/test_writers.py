"""Writers are told all that `metrics.jsonl` is told, and their services then hold it."""

import json
import sys
import types

import pytest
from etils import epath

from v2meow_jax import errors
from v2meow_jax.training import metrics, writers


class Kept:
  def __init__(self, run_dir):
    self.run_dir, self.rows, self.files, self.closed = run_dir, [], [], False

  def write(self, step, scalars):
    self.rows.append((step, dict(scalars)))

  def media(self, step, files):
    self.files.append((step, sorted(files)))

  def close(self):
    self.closed = True


def test_every_writer_is_told_all(tmp_path):
  made = []

  def make(run_dir):
    made.append(Kept(run_dir))
    return made[-1]

  writer = metrics.MetricWriter(tmp_path, also=(make, make))
  writer.write(3, 'train', {'loss': 1.5})
  writer.write(3, 'validation', {'loss': 2.5})
  samples = epath.Path(tmp_path) / 'samples'
  samples.mkdir()
  (samples / 'a.txt').write_bytes(b'')
  writer.media(3, samples)
  writer.close()
  rows = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [(row['step'], row['split'], row['loss']) for row in rows] == [
    (3, 'train', 1.5),
    (3, 'validation', 2.5),
  ]
  for one in made:
    assert one.run_dir == tmp_path and one.closed and one.files == [(3, ['a.txt'])]
    assert one.rows == [(3, {'train/loss': 1.5}), (3, {'validation/loss': 2.5})]


def test_a_run_that_goes_on_is_known_again_by_its_place(tmp_path):
  here = epath.Path(tmp_path)
  assert writers.identity(here / 'a') == writers.identity(here / 'a') != writers.identity(here / 'b')


def test_what_is_not_installed_is_told(monkeypatch, tmp_path):
  for name, kind in (('wandb', writers.Wandb), ('mlflow', writers.Mlflow)):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
      errors.ConfigError, match=f'{name} is not installed; it comes with the extra "{name}"'
    ):
      kind()(epath.Path(tmp_path))


def test_a_service_that_refuses_is_told(monkeypatch, tmp_path):
  def refuse(**options):
    raise RuntimeError('no key\nand more')

  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=refuse))
  with pytest.raises(errors.ConfigError, match=r'Weights & Biases: the run cannot be begun \(no key\)'):
    writers.Wandb()(epath.Path(tmp_path))


def test_mlflow_holds_the_numbers_and_goes_on_with_the_same_run(tmp_path, monkeypatch):
  mlflow = pytest.importorskip('mlflow', reason='of the extra "mlflow"')
  monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')  # its small package has no database
  store = f'file://{tmp_path}/store'
  make = writers.Mlflow('tried', store)
  first = make(epath.Path(tmp_path / 'run'))
  first.write(1, {'train/loss': 2.0})
  first.media(1, {'a.wav': b'RIFF'})
  first.close()
  again = make(epath.Path(tmp_path / 'run'))
  again.write(2, {'train/loss': 1.0})
  again.close()
  client = mlflow.MlflowClient(tracking_uri=store)
  runs = client.search_runs([client.get_experiment_by_name('tried').experiment_id])
  assert len(runs) == 1 and runs[0].info.status == 'FINISHED'
  history = client.get_metric_history(runs[0].info.run_id, 'train/loss')
  assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
  assert [a.path for a in client.list_artifacts(runs[0].info.run_id, 'step_1')] == ['step_1/a.wav']


def test_weights_and_biases_begins_offline_and_goes_on(tmp_path):
  pytest.importorskip('wandb', reason='of the extra "wandb"')
  make = writers.Wandb('tried', mode='offline')
  for step in (1, 2):
    writer = make(epath.Path(tmp_path))
    writer.write(step, {'train/loss': 1.0 / step})
    writer.close()
  mark = writers.identity(epath.Path(tmp_path))
  assert len(list((tmp_path / 'wandb').glob(f'offline-run-*-{mark}/run-{mark}.wandb'))) >= 1
