"""Sweeps as data, of which nothing is run: their trials, what those share, what signatures depend on."""

import pathlib

import pytest

import gin
from v2meow_jax import errors
from v2meow_jax.experiment import configuration
from v2meow_jax.sweeps import driving, trials
from v2meow_jax.sweeps.axes import Axis
from v2meow_jax.sweeps.sweep import Halving, Step, Sweep, Train

SHIPPED = sorted(path.name for path in (configuration.gin_directory() / 'sweeps').glob('*.gin'))
BASES = ('stage.gin', 'nano.gin')  # which say nothing that varies

NANO = Train('stage', ('recipes/nano_semantic.gin',), dataset='ds')
NAME = 'TransformerConfig.layers'
LAYERS = Axis('layers', NAME, (1, 2))


@pytest.fixture(autouse=True)
def forget():
  yield
  gin.clear_config()


def expand(*args, **kwargs):
  return trials.expand(Sweep(*args, **kwargs), data=lambda said: 'some data')


def shipped(name, *bindings):
  parser = configuration.parser('v2meow sweep', None)
  args = configuration.parse(parser, [f'--gin_file=sweeps/{name}', *bindings])
  return trials.expand(driving.read(args), data=lambda said: 'some data')


def signatures(found):
  return {trial.name: trial.works['stage'].signature for trial in found}


def test_seeds_are_the_same_for_every_combination():
  found = expand((NANO,), (LAYERS,), seeds=(3, 5))
  assert [trial.name for trial in found] == [
    'layers=1 seed=3', 'layers=1 seed=5', 'layers=2 seed=3', 'layers=2 seed=5',
  ]  # fmt: skip
  assert len(set(signatures(found).values())) == 4
  text = found[3].works['stage'].configuration(pathlib.Path('/root'))
  assert 'TransformerConfig.layers = 2\n' in text and 'SEED = 5\n' in text
  assert "DATASET_DIR = 'ds'" in text and "MODEL_DIR = '/root/stage/layers=2,seed=5-" in text


def test_a_signature_is_of_what_is_configured_and_not_of_how_it_is_said(tmp_path):
  first = signatures(expand((NANO,), (LAYERS,)))
  # A grown sweep, other names, defaults that are said, care of the run: nothing is made anew.
  dropout = Axis('dropout', 'TransformerConfig.dropout', (0.1, 0.2))
  grown = signatures(expand((NANO,), (Axis('layers', settings={'1': 'TransformerConfig.layers=1'}), dropout)))
  assert grown['layers=1 dropout=0.1 seed=0'] == first['layers=1 seed=0']
  assert grown['layers=1 dropout=0.2 seed=0'] not in first.values()
  said = Train(
    'stage', ('recipes/nano_semantic.gin',), dataset='elsewhere',
    settings=("TransformerConfig.dtype = 'float32'", 'Settings.checkpoint_every = 7', 'BATCH_SIZE = 4'),
  )  # fmt: skip
  assert (
    signatures(expand((said,), (LAYERS,)))['layers=1 seed=0'] != first['layers=1 seed=0']
  )  # BATCH_SIZE = 4
  said = Train(
    'stage', ('recipes/nano_semantic.gin',), dataset='elsewhere',
    settings=("TransformerConfig.dtype = 'float32'", 'Settings.checkpoint_every = 7', 'BATCH_SIZE = 8'),
  )  # fmt: skip
  assert signatures(expand((said,), (LAYERS,))) == first
  # Other data, another recipe: another signature.
  other = trials.expand(Sweep((NANO,), (LAYERS,)), data=lambda said: 'other data')
  assert not set(signatures(other).values()) & set(first.values())


def test_a_folder_with_the_signature_is_found_again_whatever_it_is_called(tmp_path):
  work = expand((NANO,), (LAYERS,))[0].works['stage']
  assert work.folder(tmp_path) == tmp_path / 'stage' / f'layers=1,seed=0-{work.signature}'
  old = tmp_path / 'stage' / f'depth=1-{work.signature}'
  old.mkdir(parents=True)
  assert work.folder(tmp_path) == old and work.output(tmp_path) == old / 'run'


def test_work_that_trials_have_in_common_is_there_once_and_in_order():
  codec = Train('codec', ('recipes/nano_codec.gin',), dataset='ds', seeded=False)
  tokens = Step('tokens', 'prepare', ('--out={out}', '--codec={codec}'))
  coarse = Train('coarse', ('recipes/nano_coarse.gin',), dataset='{tokens}')
  export = Step('bundle', 'export', ('--run={codec}', '--run={coarse}', '--out={out}'))
  found = expand(
    (codec, tokens, coarse, export), (Axis('layers', 'TransformerConfig.layers', (1, 2)),), seeds=(0, 1)
  )
  count = {name: len({trial.works[name].signature for trial in found}) for name in found[0].works}
  assert count == {'codec': 1, 'tokens': 1, 'coarse': 4, 'bundle': 4}
  assert [work.step.name for work in driving.unique(found)][:4] == ['codec', 'tokens', 'coarse', 'bundle']
  assert found[0].works['codec'].label == 'all'
  assert found[0].works['bundle'].label == 'layers=1,seed=0'
  arguments = found[0].works['bundle'].arguments(pathlib.Path('/root'))
  assert arguments[0] == 'export' and arguments[1].startswith('--run=/root/codec/all-')
  # The codec's rate goes through everything behind it.
  levels = Axis('levels', settings={'6': 'QuantizerConfig.levels = 6', '5': 'QuantizerConfig.levels = 5'})
  found = expand((codec, tokens, coarse, export), (levels,))
  assert all(len({trial.works[name].signature for trial in found}) == 2 for name in found[0].works)


def test_steps_can_be_left_out_and_what_names_them_with_them():
  first = Train('semantic', ('recipes/nano_semantic.gin',), dataset='ds', when={'stages': 'two'})
  second = Train('coarse', ('recipes/nano_coarse.gin',), dataset='ds')
  export = Step('bundle', 'export', ('--run={semantic}', '--run={coarse}', '--out={out}'))
  axis = Axis('stages', settings={'two': (), 'one': 'Stage.conditions = %VIDEO'}, steps=('coarse',))
  two, one = expand((first, second, export), (axis,))
  assert list(two.works) == ['semantic', 'coarse', 'bundle'] and list(one.works) == ['coarse', 'bundle']
  assert [len(t.works['bundle'].arguments(pathlib.Path('/'))) for t in (two, one)] == [4, 3]
  assert two.works['coarse'].signature != one.works['coarse'].signature


def test_trials_are_matched_in_tokens_or_flops():
  crops = Axis('crop', 'SEMANTIC_CROP', (5, 10))
  base, twice = (t.works['stage'].size for t in expand((NANO,), (crops,), match='tokens'))
  assert twice.tokens == 2 * base.tokens and (base.steps, twice.steps) == (150, 75)
  base, deep = (t.works['stage'].size for t in expand((NANO,), (LAYERS,), match='flops'))
  assert deep.flops > 1.5 * base.flops
  assert deep.steps * deep.flops == pytest.approx(base.steps * base.flops, rel=0.01)
  # The baseline need not come first.
  short = expand((NANO,), (crops,), match='tokens', baseline={'crop': 10})[0].works['stage'].size
  assert short.steps == 300


def test_sizes_are_those_of_what_is_trained():
  work = expand((NANO,))[0].works['stage']
  assert work.size.tokens == 8 * 5 * 25  # batch x seconds x Hz
  assert work.size.steps == 150
  assert work.size.parameters > 2 * (4 * 96 * 96 + 2 * 96 * 256)  # two layers' projections and more
  assert work.size.flops > 6 * 8 * 125 * 2 * 4 * 96 * 96


REFUSED = {
  'no such parameter': (
    dict(axes=(Axis('layers', 'TransformerConfig.layer', (1,)),)),
    'layer.*near it are TransformerConfig.layers',
  ),
  'no such macro': (dict(axes=(Axis('batch', 'BATCH_SZE', (1,)),)), 'nothing reads BATCH_SZE.*BATCH_SIZE'),
  'no such configurable': (dict(axes=(Axis('n', 'Transfomer.layers', (1,)),)), 'axis n.*Transfomer'),
  'not read here': (dict(axes=(Axis('b2', 'adafactor.decay', (1,)),)), 'axis b2'),
  'wrong type': (
    dict(axes=(Axis('layers', 'TransformerConfig.layers', (1, 'two')),)),
    "axis layers: TransformerConfig.layers takes int, not 'two'",
  ),
  'no statement': (dict(axes=(Axis('a', settings={'x': 'layers'}),)), "axis a: 'layers' is no statement"),
  'collision': (
    dict(axes=(Axis('n', settings={'2': f'{NAME} = 2', 'two': f'{NAME}=2'}),)),
    'n=2 seed=0 and n=two seed=0 come to the same',
  ),
  'an axis without use': (dict(axes=(Axis('speed', '', (1,)),)), 'axis speed: no step changes with it'),
  'baseline': (dict(axes=(LAYERS,), baseline={'layers': 3}, match='tokens'), 'axis layers has no 3'),
  'match': (dict(match='time'), "Sweep.match is 'time'"),
  'seeds': (dict(seeds=(0, 0)), 'each once'),
  'halving': (dict(steps=(Step('a', 'prepare'),), halving=Halving()), 'only step is a training run'),
  'unknown place': (dict(steps=(Step('a', 'prepare', ('{b}',)),)), 'step a: {b} is no step before it'),
  'twice': (dict(steps=(NANO, NANO)), 'another thing is called so'),
  'recipe': (dict(steps=(Train('stage', ('recipes/nono.gin',), dataset='ds'),)), 'recipes/nono.gin'),
  'setting': (
    dict(steps=(Train('stage', ('recipes/nano_semantic.gin',), 'BATCH_SZ = 3', 'ds'),)),
    'step stage: nothing reads',
  ),
}  # fmt: skip


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_wrong_is_told_in_one_sentence(case):
  given, words = REFUSED[case]
  with pytest.raises(errors.ConfigError, match=f'(?s){words}'.replace('{', r'\{')) as told:
    expand(**({'steps': (NANO,)} | given))
  assert '\n' not in str(told.value)


def test_missing_data_is_told_before_anything_runs():
  with pytest.raises(errors.DatasetError, match=r'ds: no clips\.jsonl'):
    trials.expand(Sweep((NANO,)))


@pytest.mark.parametrize('name', [name for name in SHIPPED if name not in BASES])
def test_every_shipped_sweep_has_its_trials(name):
  text = (configuration.gin_directory() / 'sweeps' / name).read_text()
  where = 'MANIFEST' if '_to_bundle' in text or '_to_bundle' in name else 'DATASET'
  given = [f'--gin.{where}="there"'] + ['--gin_file=sweeps/nano.gin'] * (where == 'MANIFEST')
  found = shipped(name, *given)
  combinations, seeds = {trial.combination for trial in found}, {trial.seed for trial in found}
  assert len(combinations) * len(seeds) == len(found)
  assert (len(combinations) == 1) == name.endswith('_to_bundle.gin')


def test_a_scaled_up_sweep_is_one_other_recipe():
  small = shipped('positions.gin', '--gin.DATASET="ds"')
  large = shipped('positions.gin', '--gin.DATASET="ds"', '--gin.RECIPE="recipes/v2meow_semantic.gin"')
  assert [trial.name for trial in large] == [trial.name for trial in small]
  assert large[0].works['stage'].size.parameters > 1000 * small[0].works['stage'].size.parameters
  both = "(\"clip == 'on' or flow == 'on' or motion == 'on'\",)"
  found = shipped(
    'visual_features.gin', '--gin.DATASET="ds"', '--gin.RECIPE="recipes/v2meow_semantic.gin"',
    f'--gin.COMBINATIONS={both}', '--gin.SEEDS=(0,)',
  )  # fmt: skip
  assert len(found) == 7


def test_zipped_axes_and_pipelines_come_from_gin():
  found = shipped('semantic_stage.gin', '--gin.MANIFEST="m"', '--gin_file=sweeps/nano.gin')
  assert [list(trial.works) for trial in found][1] == [
    'media', 'codec', 'tokens', 'coarse', 'fine', 'bundle', 'evaluation',
  ]  # fmt: skip
  assert found[0].works['codec'] is found[1].works['codec']
