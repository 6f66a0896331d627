"""Runs to bundle: what was trained is what generates, and what does not belong together is refused."""

import json
import pathlib

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import small
from etils import epath

from v2meow_jax import bundles, description, errors, terminal
from v2meow_jax.bundles.export import export as export_runs
from v2meow_jax.bundles.saved_run import SavedRun
from v2meow_jax.codec.trainable import CodecTrainable
from v2meow_jax.commands import export
from v2meow_jax.encoders.motion import MotionEncoder
from v2meow_jax.encoders.pulse import PulseEncoder
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.training import loop


class Fixed:
  """The same batch again and again, made by the encoders that are named."""

  batch_size = 2

  def __init__(self, batch, made_by):
    self.batch, self.made_by = batch, made_by

  def describe(self):
    return self.made_by

  def start(self, position, rows=None):
    del position
    while True:
      yield self.batch


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> dict[str, pathlib.Path]:
  root = tmp_path_factory.mktemp('runs')
  untrained = small.make_codec()
  tones = np.sin(np.arange(16000) * np.array([[0.1], [0.23]]))[..., None]
  batch = {'audio/waveform': (tones * 9000).astype(np.int16)}
  codec = CodecTrainable(untrained.config, optax.adam(1e-3), warmup_steps=1, ring=64, windows=(512,))
  loop.train(run_dir=root / 'codec', trainable=codec, batches=Fixed(batch, {}), total_steps=2)
  identity = bundles.load_codec(root / 'codec').identity
  made_by = {
    'video/motion': MotionEncoder().identity,
    'audio/semantic': {'encoder': 'semantic', 'sha256': 'a'},
    'audio/acoustic': identity,
  }
  for stage, config in small.make_stages(untrained):
    one = small.zero_batch(stage)
    two = {key: np.repeat(np.asarray(value), 2, 0) for key, value in one.items()}
    used = {stream.name: json.loads(json.dumps(made_by[stream.name])) for stream in stage.streams}
    loop.train(
      run_dir=root / stage.name,
      trainable=StageTrainable(stage, config, optax.adam(1e-3)),
      batches=Fixed(two, used),
      total_steps=1,
    )
  return {name: root / name for name in ('codec', 'semantic', 'coarse', 'fine')}


def arguments(runs, out, *names):
  return [f'--run={runs[name]}' for name in names] + [f'--out={out}']


def test_the_bundle_holds_the_runs_weights_whatever_their_order(runs, tmp_path):
  out = tmp_path / 'bundle'
  assert export.main(arguments(runs, out, 'fine', 'semantic', 'codec', 'coarse')) == 0
  loaded = bundles.load(out)
  assert [runner.stage.name for runner in loaded.stages()] == ['semantic', 'coarse', 'fine']
  for runner in loaded.stages():
    trained = small.flat(bundles.read_run(runs[runner.stage.name]).weights)
    for path, value in small.flat(runner.params).items():
      np.testing.assert_array_equal(value, trained[path])
  assert loaded.codec().identity == bundles.load_codec(runs['codec']).identity
  jax.block_until_ready(Pipeline.load(loaded).codec.decode(np.zeros((3, 4), int)))


def test_sampling_reaches_the_bundle(runs, tmp_path):
  out = tmp_path / 'bundle'
  chosen = '--sampling={"coarse": {"temperature": 0.5, "top_k": 9}}'
  assert export.main([*arguments(runs, out, 'codec', 'semantic', 'coarse', 'fine'), chosen]) == 0
  assert bundles.load(out).stages()[1].sampling.top_k == 9


def refused(capsys, runs, tmp_path, *names, extra=()):
  assert terminal.run(export.main, [*arguments(runs, tmp_path / 'bundle', *names), *extra]) == 2
  assert not (tmp_path / 'bundle').exists()
  return capsys.readouterr().err


def test_runs_that_do_not_make_a_pipeline_are_refused(runs, tmp_path, capsys):
  assert '0 codec runs' in refused(capsys, runs, tmp_path, 'semantic', 'coarse', 'fine')
  assert '0 stage runs' in refused(capsys, runs, tmp_path, 'codec')
  assert 'fine: needs a stream or level' in refused(capsys, runs, tmp_path, 'codec', 'fine')
  assert 'no model.json' in refused(capsys, runs | {'codec': tmp_path}, tmp_path, 'codec', 'semantic')
  assert '--sampling' in refused(capsys, runs, tmp_path, 'codec', 'semantic', extra=['--sampling={"x": {}}'])


def test_stages_of_another_codecs_tokens_are_refused(runs, tmp_path):
  run = bundles.read_run(runs['coarse'])
  run.about['data']['audio/acoustic'] = {'encoder': 'codec', 'sha256': 'another'}
  others = [bundles.read_run(runs[name]) for name in ('codec', 'semantic', 'fine')]
  with pytest.raises(errors.BundleError, match="coarse: it was trained on a stream 'audio/acoustic'"):
    export_runs([run, *others], tmp_path / 'bundle')


def test_a_run_without_a_checkpoint_is_refused(runs, tmp_path):
  (tmp_path / 'model.json').write_text((runs['fine'] / 'model.json').read_text())
  with pytest.raises(errors.BundleError, match='no checkpoint'):
    bundles.read_run(tmp_path)


def test_a_stage_is_no_codec(runs):
  with pytest.raises(errors.BundleError, match='trained a stage, not a codec'):
    bundles.load_codec(runs['fine'])


def test_what_continues_a_stream_of_a_stage_s_own_comes_from_its_identity(tmp_path):
  codec = small.make_codec()
  pulse = PulseEncoder(rate=5)
  acoustic = Condition(pulse.stream, placement='aligned')
  config = TransformerConfig(layers=1, width=16, heads=2, mlp=16)
  made = []
  for stage in (
    Stage('pulse', (Condition(MotionEncoder().stream),), Target(pulse.stream), 2),
    Stage('acoustic', (acoustic,), Target(codec.stream, pattern='delay'), 2),
  ):
    shapes = jax.eval_shape(StageModel(stage, config).init, jax.random.key(0), small.zero_batch(stage))
    weights = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), nn.unbox(shapes)['params'])
    made_by = {
      'video/motion': MotionEncoder().identity,
      'audio/pulse': pulse.identity,
      codec.stream.name: codec.identity,
    }
    about = {
      'stage': description.describe(stage),
      'transformer': description.describe(config),
      'data': json.loads(json.dumps({stream.name: made_by[stream.name] for stream in stage.streams})),
    }
    made.append(SavedRun(epath.Path(tmp_path / stage.name), 'stage', about, 1, weights))
  about = {'codec': description.describe(codec.config)}
  made.append(SavedRun(epath.Path(tmp_path / 'codec'), 'codec', about, 1, codec.weights))
  export_runs(made, tmp_path / 'bundle')
  bundle = bundles.Bundle(tmp_path / 'bundle')
  assert [stage.stage.name for stage in bundle.stages()] == ['pulse', 'acoustic']
  assert bundle.stages()[1].stage.conditions == (acoustic,)
  assert bundle.token_encoders() == [pulse] and bundle.encoder_of('audio/pulse') == pulse
  assert bundle.encoders() == [MotionEncoder()]
