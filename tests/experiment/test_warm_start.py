"""Warm starts: what is loaded under which rules, what is refused, and that it happens once."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from flax import traverse_util

from v2meow_jax import bundles, errors
from v2meow_jax.codec.trainable import CodecTrainable
from v2meow_jax.experiment.warm_start import WarmStart
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.training import checkpoints, loop

CODEC = small.make_codec()
STAGES = {stage.name: (stage, config) for stage, config in small.make_stages(CODEC)}
OPTIMIZER = optax.sgd(0.1)


class Batches:
  """Zeros of a stage."""

  batch_size = 1

  def __init__(self, stage):
    self.stage = stage

  def describe(self):
    return {stream.name: {'encoder': 'none'} for stream in self.stage.streams}

  def start(self, position, rows=None):
    while True:
      yield jax.tree.map(np.asarray, small.zero_batch(self.stage))


def trainable(name='semantic', codes=None, **config):
  """A stage of the small bundle; with another vocabulary where `codes` is given."""
  stage, old = STAGES[name]
  if codes:
    target = dataclasses.replace(stage.target.stream, codes=codes)
    stage = Stage(name, stage.conditions, Target(target, None, stage.target.pattern), stage.crop_seconds)
  return StageTrainable(stage, dataclasses.replace(old, **config), OPTIMIZER)


def fresh(made):
  return nn.unbox(jax.jit(made.init)(jax.random.key(9), small.zero_batch(made.stage)))


def shapes(made):
  """Our arrays by name, without values."""
  state = nn.unbox(jax.eval_shape(made.init, jax.random.key(9), small.zero_batch(made.stage)))
  return flat(jax.eval_shape(made.weights, state))


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


@pytest.fixture(scope='module')
def source(small_bundle):
  """The bundle's semantic stage by array name."""
  return flat(bundles.load(small_bundle).network('semantic'))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of the semantic stage, one step long."""
  directory = tmp_path_factory.mktemp('source') / 'run'
  made = trainable()
  loop.train(run_dir=directory, trainable=made, batches=Batches(made.stage), total_steps=1, seed=4)
  return directory


# Rules, on names and shapes alone.


def of(**sizes):
  return {name: np.zeros(size, np.float32) for name, size in sizes.items()}


def match(rules, ours, theirs):
  loaded, report = WarmStart('SOURCE', rules=rules).match(ours, theirs)
  assert set(report.loaded) == set(loaded) and not set(report.loaded) & set(report.new)
  assert set(report.loaded) | set(report.new) == set(ours)
  return loaded, report


def test_without_rules_names_are_kept_and_what_is_left_over_is_told():
  theirs = {name: np.full(3, n, np.float32) for n, name in enumerate('abc')}
  loaded, report = match((), of(a=3, b=3), theirs)
  assert {name: value[0] for name, value in loaded.items()} == {'a': 0, 'b': 1}
  assert (report.loaded, report.new, report.unused) == (('a', 'b'), (), ('c',))


def test_a_rule_renames_with_groups_and_the_first_that_matches_counts():
  theirs = {f'old/layer_{n}/kernel': np.full(2, n, np.float32) for n in range(3)}
  ours = {f'net/block_{n}/kernel': np.zeros(2, np.float32) for n in range(3)} | of(head=7)
  rules = (
    ('head', None),
    ('net/block_2/.*', r'old/layer_0/kernel'),
    (r'net/block_(\d)/(\w+)', r'old/layer_\1/\2'),
    ('.*', None),
  )
  loaded, report = match(rules, ours, theirs)
  assert {name: value[0] for name, value in loaded.items()} == {
    'net/block_0/kernel': 0, 'net/block_1/kernel': 1, 'net/block_2/kernel': 0,
  }  # fmt: skip
  assert (report.new, report.unused) == (('head',), ('old/layer_2/kernel',))
  # The other way round nothing is left for the second rule.
  with pytest.raises(errors.BundleError, match='nothing of it is loaded'):
    match(rules[::-1], ours, theirs)


def test_a_pattern_matches_whole_names_only():
  with pytest.raises(errors.BundleError, match="no array 'embedding/table' for our 'embedding/table'"):
    match((('embedding', None),), {'embedding/table': np.zeros(2)} | of(a=1), of(a=1))


def test_the_report_says_what_came_of_each():
  _, report = match((('b|d', None),), of(a=1, b=1, d=2), of(a=1, b=1, c=1))
  assert str(report) == ('warm start: 1 arrays loaded\nwarm start: 2 new: b, d\nwarm start: 2 unused: b, c')


def test_values_take_our_type():
  loaded, _ = match((), {'a': jax.ShapeDtypeStruct((2,), jnp.bfloat16)}, {'a': np.array([1, 1 + 2**-10])})
  assert loaded['a'].dtype == jnp.bfloat16 and loaded['a'].tolist() == [1, 1]


@pytest.mark.parametrize('rules', [(('(', None),), (('a',),), ('ab',), (('a', 3),), ((None, 'a'),)])
def test_a_rule_that_is_none_is_refused(rules):
  if rules == ('ab',):  # two letters read as a pattern and a name, which is as good as any rule
    return
  with pytest.raises(errors.ConfigError, match=r'WarmStart\.rules'):
    WarmStart('SOURCE', rules=rules)


def test_a_group_that_the_pattern_does_not_have_is_refused_in_a_sentence():
  with pytest.raises(errors.InputError, match=r'WarmStart\.rules'):
    match((('a(b)', r'c\2'),), of(ab=1), of(c=1))


# Sources.


def test_a_bundles_stage_is_loaded_bit_for_bit(small_bundle, source):
  made = trainable()
  state = fresh(made)
  loaded, report = WarmStart(str(small_bundle), 'semantic')(made, state, jax.jit)
  assert set(report.loaded) == set(source) and not report.new and not report.unused
  for name, value in flat(loaded['params']).items():
    np.testing.assert_array_equal(value, source[name])
  # Nothing but parameters is of elsewhere.
  assert loaded['step'] == 0
  jax.tree.map(np.testing.assert_array_equal, loaded['opt_state'], state['opt_state'])


def test_an_average_begins_with_the_same_weights(small_bundle, source):
  made = dataclasses.replace(trainable(), ema_decay=0.9)
  loaded, _ = WarmStart(str(small_bundle), 'semantic')(made, fresh(made), jax.jit)
  for part in ('params', 'ema'):
    jax.tree.map(np.testing.assert_array_equal, flat(loaded[part]), source)


def test_layers_that_are_stacked_hold_each_layer_of_the_bundle(small_bundle, source):
  made = trainable(scan_layers=True)
  loaded, report = WarmStart(str(small_bundle), 'semantic')(made, fresh(made), jax.jit)
  assert not report.new and not report.unused
  stacked = flat(loaded['params']['transformer']['layers'])
  assert {name.count('layer_') for name in flat(loaded['params'])} == {0}
  for name, value in stacked.items():
    for n in range(made.config.layers):
      np.testing.assert_array_equal(value[n], source[f'transformer/layer_{n}/{name}'])
  np.testing.assert_array_equal(loaded['params']['head'], source['head'])


def test_layers_of_a_stack_may_be_new_or_of_another_layer(small_bundle, source):
  made = trainable(layers=3, scan_layers=True)
  state = fresh(made)
  rules = (
    ('transformer/layer_2/.*(kernel)', None),
    (r'transformer/layer_2/(.*)', r'transformer/layer_0/\1'),
  )
  loaded, report = WarmStart(str(small_bundle), 'semantic', rules)(made, state, jax.jit)
  assert report.new and all(name.startswith('transformer/layer_2/') for name in report.new)
  ours, before = (flat(tree['params']['transformer']['layers']) for tree in (loaded, state))
  for name, value in ours.items():
    np.testing.assert_array_equal(value[1], source[f'transformer/layer_1/{name}'])
    wanted = before[name][2] if name.endswith('kernel') else source[f'transformer/layer_0/{name}']
    np.testing.assert_array_equal(value[2], wanted)


def test_a_run_is_loaded_as_it_would_be_exported(run):
  found = WarmStart(str(run)).read()
  trained = bundles.read_run(run).weights
  assert found.keys() == flat(trained).keys()
  jax.tree.map(np.testing.assert_array_equal, found, flat(trained))


def test_another_vocabulary_is_refused_by_name_and_accepted_by_a_rule(small_bundle, source):
  made = trainable(codes=24)
  ours = shapes(made)
  differs = sorted(name for name in ours if ours[name].shape != source[name].shape)
  assert differs and all('layer_' not in name for name in differs)
  begin = WarmStart(str(small_bundle), 'semantic')
  with pytest.raises(errors.BundleError) as told:
    begin.match(ours, source)
  name = differs[0]
  assert f'{name!r} is {source[name].shape}, our {name!r} is {ours[name].shape}' in str(told.value)
  assert f'({name!r}, None)' in str(told.value) and '\n' not in str(told.value)
  state = fresh(made)
  begin = dataclasses.replace(begin, rules=(('|'.join(differs), None),))
  loaded, report = begin(made, state, jax.jit)
  assert list(report.new) == differs and list(report.unused) == differs
  for name, value in flat(loaded['params']).items():
    np.testing.assert_array_equal(value, flat(state['params'])[name] if name in differs else source[name])


def test_another_condition_is_refused_by_name_and_accepted_by_a_rule(small_bundle, source):
  stage, config = STAGES['semantic']
  condition = dataclasses.replace(stage.conditions[0].stream, width=stage.conditions[0].stream.width + 1)
  other = Stage('semantic', (Condition(condition),), stage.target, stage.crop_seconds)
  ours = shapes(StageTrainable(other, config, OPTIMIZER))
  begin = WarmStart(str(small_bundle), 'semantic')
  with pytest.raises(errors.BundleError, match='condition_video_motion'):
    begin.match(ours, source)
  begin = dataclasses.replace(begin, rules=(('condition_.*/kernel', None),))
  loaded, report = begin.match(ours, source)
  assert report.new == report.unused and len(report.new) == 1 and len(loaded) == len(ours) - 1


def test_where_nothing_is_loaded_it_is_an_error(small_bundle, source):
  with pytest.raises(errors.BundleError, match='by the rules nothing of it is loaded'):
    WarmStart(str(small_bundle), 'semantic', (('.*', None),)).match(shapes(trainable()), source)


def test_sources_that_cannot_be_used_are_told(small_bundle, tmp_path):
  with pytest.raises(errors.BundleError, match='neither a run') as told:
    WarmStart(str(tmp_path)).read()
  assert str(tmp_path) in str(told.value)
  with pytest.raises(errors.BundleError, match='neither a run'):
    WarmStart(str(tmp_path / 'missing')).read()
  with pytest.raises(errors.BundleError, match="no network 'melody', only codec, semantic, coarse, fine"):
    WarmStart(str(small_bundle), 'melody').read()
  (tmp_path / 'model.json').write_text('{"kind": "stage", "transformer": {"layers": 2}}')
  with pytest.raises(errors.BundleError, match='there is no checkpoint'):
    WarmStart(str(tmp_path)).read()


def test_a_stage_does_not_begin_with_a_codec(small_bundle):
  begin = WarmStart(str(small_bundle), 'codec')
  with pytest.raises(errors.BundleError, match='there is no array'):
    begin.match(shapes(trainable()), begin.read())


# A codec.


def test_a_codec_keeps_its_codebooks_and_does_not_fit_them_again(small_bundle):
  made = CodecTrainable(CODEC.config, optax.sgd(0.0), warmup_steps=5, ring=64, windows=(512,))
  rng = np.random.default_rng(0)
  # 128 frames, eight for each code: enough to keep all alive.
  batch = {'audio/waveform': (9000 * rng.standard_normal((4, 32 * 320, 1))).astype(np.int16)}
  state = jax.jit(made.init)(jax.random.key(1), batch)
  begin = WarmStart(str(small_bundle), 'codec')
  loaded, report = begin(made, state, jax.jit)
  assert not report.new and not report.unused and loaded['step'] == 5
  books = CODEC.weights['codebooks']
  np.testing.assert_array_equal(loaded['books'].vectors, books)
  jax.tree.map(np.testing.assert_array_equal, loaded['params'], CODEC.weights['params'])
  # Vectors are sums over counts, so that updates move each towards what it is used for; float32's rounding.
  counts = np.asarray(loaded['books'].counts)[..., None]
  np.testing.assert_allclose(loaded['books'].sums / counts, books, rtol=1e-6)
  # After the warm-up: the commitment counts, and the ring is not turned into other codebooks.
  stepped, metrics = jax.jit(made.step)(loaded, batch, jax.random.key(2))
  assert stepped['step'] == 6
  parts = [metrics[name] for name in ('mel', 'convergence', 'complex', 'commitment')]
  weights = [made.mel_weight, made.convergence_weight, made.complex_weight, made.commitment_weight]
  np.testing.assert_allclose(metrics['loss'], np.dot(parts, weights), rtol=1e-5)  # float32's rounding
  # Averages with a decay of 0.99 move a code by a small part of its distance to the others; a code that is
  # replaced, by a fit or as dead, would be somewhere else. The first step after the fit of a run does so to
  # none that is in use.
  distances = np.linalg.norm(books[:, :, None] - books[:, None], axis=-1).mean((1, 2))
  moved = np.linalg.norm(np.asarray(stepped['books'].vectors) - books, axis=-1) / distances[:, None]
  assert (moved < 0.5).all()


# Within a run.


def test_a_run_begins_warm_once_and_says_so(run, tmp_path, monkeypatch, capsys):
  made, calls = trainable(), []
  begin = WarmStart(str(run))
  read = WarmStart.read
  monkeypatch.setattr(WarmStart, 'read', lambda self: calls.append(1) or read(self))

  def train(directory, steps, start=begin, rate=0.0):
    return loop.train(
      run_dir=directory,
      trainable=dataclasses.replace(made, optimizer=optax.sgd(rate)),
      batches=Batches(made.stage),
      total_steps=steps,
      warm_start=start,
    )

  state = train(tmp_path / 'still', 1)
  wanted = bundles.read_run(run).weights
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state['params']), wanted)
  told = (tmp_path / 'still' / 'warm_start.txt').read_text()
  assert told == f'warm start: {len(flat(wanted))} arrays loaded\n' and told in capsys.readouterr().err
  assert calls == [1]
  # Resumed: the source is not even looked at, and may be gone.
  (tmp_path / 'still' / 'warm_start.txt').unlink()
  train(tmp_path / 'still', 2, WarmStart(str(tmp_path / 'gone')))
  assert calls == [1] and not (tmp_path / 'still' / 'warm_start.txt').exists()
  assert checkpoints.restore_arrays(tmp_path / 'still')[1] == 2


def test_a_warm_start_that_fails_leaves_nothing_that_looks_like_a_run(tmp_path):
  made = trainable()
  with pytest.raises(errors.BundleError, match='neither a run'):
    loop.train(
      run_dir=tmp_path / 'run',
      trainable=made,
      batches=Batches(made.stage),
      total_steps=1,
      warm_start=WarmStart(str(tmp_path / 'gone')),
    )
  assert not (tmp_path / 'run' / 'model.json').exists()


def test_what_would_load_and_be_another_network_is_refused_by_name(small_bundle):
  # The same arrays, read with twice as many heads.
  made = trainable(heads=4, qk_norm=False)
  begin = WarmStart(str(small_bundle), 'semantic')
  for setting in ('heads = 2 and ours 4', 'qk_norm = True and ours False'):
    with pytest.raises(errors.BundleError, match=setting):
      begin(made, fresh(made), jax.jit)
    begin = dataclasses.replace(begin, despite=(*begin.despite, setting.split()[0]))
  _, report = begin(made, fresh(made), jax.jit)
  assert report.loaded and all('norm' in name for name in report.unused)
  with pytest.raises(errors.ConfigError, match='layers is none of heads'):
    WarmStart('SOURCE', despite=('layers',))


def test_a_checkpoint_of_t5x_is_known_for_what_it_is(tmp_path):
  (tmp_path / 'checkpoint_7').mkdir()
  with pytest.raises(errors.BundleError, match='v2meow t5x import'):
    WarmStart(str(tmp_path)).read()
