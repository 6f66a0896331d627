"""`v2meow precompile`: what is read from a compiler, on virtual devices and for a TPU that is not there."""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

import pytest

from v2meow_jax.experiment import compilation
from v2meow_jax.experiment.configuration import gin_directory

HERE = pathlib.Path(__file__).parent

# As XLA prints them: f32 and bf16 tensors, tuples, layouts with tiles, asynchronous pairs, and what is none.
HLO = """
HloModule jit_step, is_scheduled=true

%region_0.1 (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(f32[] %a, f32[] %b)
}

ENTRY %main.10 (p0: f32[8,16]) -> f32[] {
  %p0 = f32[8,16]{1,0} parameter(0), sharding={devices=[8,1]<=[8]}
  %all-reduce.1 = f32[8,16]{1,0:T(8,128)} all-reduce(%p0), replica_groups={{0,1}}, to_apply=%region_0.1
  %all-reduce.2 = (f32[], bf16[3,5]{1,0:T(8,128)(2,1)S(1)}) all-reduce(%x, %y), to_apply=%region_0.1
  %all-gather.3 = bf16[4,32]{1,0} all-gather(%z), channel_id=1, dimensions={0}, use_global_device_ids=true
  %all-gather-start.4 = (f32[2,3]{1,0}, f32[4,3]{1,0}) all-gather-start(%w), dimensions={0}
  %all-gather-done.4 = f32[4,3]{1,0} all-gather-done(%all-gather-start.4)
  %reduce-scatter.5 = f32[4]{0} reduce-scatter(%q), dimensions={0}, to_apply=%region_0.1
  %all-to-all.6 = s8[10]{0} all-to-all(%r), dimensions={0}
  ROOT %collective-permute.7 = pred[6,2]{1,0} collective-permute(%s), source_target_pairs={{0,1},{1,0}}
  %fusion.8 = f32[1000]{0} fusion(%all-reduce.1), kind=kLoop, calls=%fused, metadata={op_name="all-reduce("}
}
"""


def test_collectives_are_counted_with_the_bytes_of_their_results():
  assert compilation.collectives(HLO) == {
    'all-reduce': (2, 4 * 8 * 16 + 4 + 2 * 3 * 5),
    # The start of a pair names its operand as well; its end is not counted again.
    'all-gather': (2, 2 * 4 * 32 + 4 * 2 * 3 + 4 * 4 * 3),
    'reduce-scatter': (1, 16),
    'all-to-all': (1, 10),
    'collective-permute': (1, 12),
  }


def test_a_program_without_collectives_has_none():
  assert compilation.collectives('%add.1 = f32[8]{0} add(%a, %b)') == {}


# On eight virtual devices, in a process of its own.

PROGRAM = """
import dataclasses, json, sys
sys.path[:0] = sys.argv[1:3]
import jax, optax
import test_planning as t
from v2meow_jax.experiment import compilation
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.training.guard import Guard

found = {}
for name, shape, optimizer in (
  ('one', (1, 1, 1), optax.adamw(1e-3)), ('data', (8, 1, 1), optax.adamw(1e-3)),
  ('mixed', (2, 2, 2), optax.adamw(1e-3)), ('sgd', (1, 1, 1), optax.sgd(1e-3)),
):
  size = shape[0] * shape[1] * shape[2]
  partitioner = Partitioner(shape, devices=tuple(jax.devices()[:size]))
  made = StageTrainable(t.STAGE, t.CONFIG, optimizer)
  compiled = compilation.compile_step(made, t.Shapes(), partitioner, Guard())
  found[name] = dataclasses.asdict(compiled) | {'text': str(compiled)}
  planned = t.planning.estimate(made, t.Shapes(), partitioner, Guard(), 'v5e', size)
  found[name] |= {'planned': planned.state + planned.batch, 'planned_parameters': planned.parameters}
  found[name] |= {'planned_flops': planned.model_flops}
print(json.dumps(found))
"""


def run(*command, **env):
  # Without the tests' compilation cache: what is compiled here is what is looked at.
  unwanted = ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')
  clean = {name: value for name, value in os.environ.items() if name not in unwanted}
  return subprocess.run(
    [sys.executable, *command],
    capture_output=True,
    text=True,
    env=clean | {'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '3'} | env,
  )


@pytest.fixture(scope='module')
def compiled():
  flags = '--xla_force_host_platform_device_count=8'
  done = run('-c', PROGRAM, str(HERE), str(HERE.parent), XLA_FLAGS=flags)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.parametrize('name', ['one', 'data', 'mixed', 'sgd'])
def test_a_step_is_compiled_and_needs_what_the_plan_says(compiled, name):
  found = compiled[name]
  assert found['devices'] == f'{math.prod(found["mesh"].values())} x cpu'
  assert found['parameters'] == found['planned_parameters']
  assert found['model_flops'] == found['planned_flops']
  # State and batch to the byte, but for the step's number, the hosts' wish to stop, and alignment; offsets
  # and masks that the step does not read are dropped.
  assert 0.9 * found['planned'] < found['arguments'] < found['planned'] + 8192
  assert found['temporaries'] > 0 and found['seconds'] > 0
  assert found['peak'] >= found['arguments'] + found['temporaries']


def test_the_compilers_flops_are_those_of_the_formula_and_split_over_devices(compiled):
  one, data = compiled['one'], compiled['data']
  # The compiler counts elementwise work as well, and all pairs where attention is causal.
  assert one['model_flops'] < one['flops'] < 3 * one['model_flops']
  # The optimiser's share is not split.
  assert one['flops'] / 8 <= data['flops'] < one['flops'] / 3


def test_collectives_are_those_that_the_mesh_needs(compiled):
  assert compiled['one']['collectives'] == compiled['sgd']['collectives'] == {}
  data, mixed = compiled['data']['collectives'], compiled['mixed']['collectives']
  # Every gradient is added up over the copies once; metrics and norms besides.
  count, size = data['all-reduce']
  gradients = 4 * compiled['data']['parameters']
  assert count >= 1 and gradients <= size < 1.1 * gradients + 4096
  assert mixed['all-gather'][1] > 0  # parameters, gathered where they are used


def test_arrays_lie_as_the_rules_say(compiled):
  for name, ways in (('one', 1), ('data', 1), ('mixed', 4)):
    assert len(compiled[name]['placed']) == 4
    sizes = [math.prod(shape) for _, shape, _, _ in compiled[name]['placed']]
    assert sizes == sorted(sizes, reverse=True)
    for array, shape, spec, piece in compiled[name]['placed']:
      # The largest arrays are matrices over embed x mlp or vocabulary x embed: fsdp x tensor.
      assert math.prod(shape) == ways * math.prod(piece), array
      assert "'fsdp'" in spec and "'tensor'" in spec


def test_what_is_printed_has_every_part(compiled):
  text = compiled['mixed']['text']
  for wanted in (
    '8 x cpu, mesh data=2 fsdp=2 tensor=2',
    'GiB a device',
    'FLOPs',
    'all-gather',
    'compiled in',
  ):
    assert wanted in text
  assert f'parameters   {compiled["mixed"]["parameters"] / 1e6:.1f} million' in text


# The command.

SMALL = (
  '--gin_file=recipes/tiny_semantic.gin', '--gin.TransformerConfig.layers=2',
  '--gin.TransformerConfig.width=128', '--gin.TransformerConfig.heads=1',
  '--gin.TransformerConfig.mlp=128', '--gin.SEMANTIC_CROP=2',
  '--gin.BATCH_SIZE=4', '--gin.semantic/Stream.codes=16',
)  # fmt: skip


def command(*arguments, name='precompile', **env):
  return run('-m', 'v2meow_jax.cli', name, *arguments, **env)


def told(done):
  """What the command itself says on standard error; libtpu talks there, too."""
  assert 'Traceback' not in done.stderr
  return [line for line in done.stderr.splitlines() if line.startswith('v2meow: ')]


def test_a_batch_that_does_not_divide_is_told_before_anything_is_compiled():
  flags = '--xla_force_host_platform_device_count=8'
  done = command(*SMALL, XLA_FLAGS=flags)
  assert (done.returncode, done.stdout) == (2, '')
  assert len(told(done)) == 1 and 'batch_size 4 does not divide over 8 devices' in told(done)[0]


@pytest.fixture
def libtpu():
  pytest.importorskip('libtpu', reason='the TPU\'s compiler is the extra "tpu"')


# Says besides how many Mosaic kernels are in the compiled program.
COUNTING = """
import sys
from v2meow_jax import cli
from v2meow_jax.experiment import compilation
count = compilation.collectives
def counted(program):
  print('kernels', program.count('custom_call_target="tpu_custom_call"'))
  return count(program)
compilation.collectives = counted
sys.exit(cli.main(['precompile', *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_a_stage_with_splash_attention_is_compiled_for_a_tpu_that_is_not_there(libtpu):
  done = run('-c', COUNTING, *SMALL, '--gin.TransformerConfig.attention="splash"', '--topology=v5e:2x2')
  assert done.returncode == 0, done.stderr
  # Forward and backward of each of two layers, at least.
  assert int(re.search(r'kernels (\d+)', done.stdout)[1]) >= 4
  assert 'devices      4 x TPU v5 lite, mesh data=4 fsdp=1 tensor=1' in done.stdout
  assert re.search(r'all-reduce +\d+ x', done.stdout) and 'compiled in' in done.stdout
  assert not told(done)


@pytest.mark.slow
def test_layers_that_are_scanned_are_split_over_the_mesh(libtpu):
  arguments = (
    '--topology=v5e:2x2', '--gin_file=hardware/v5e_256.gin',
    '--gin.Partitioner.ici_mesh_shape=(1, 4, 1)', '--gin.TransformerConfig.scan_layers=True',
  )  # fmt: skip
  done = command(*SMALL, *arguments)
  assert done.returncode == 0, done.stderr
  assert '4 x TPU v5 lite, mesh data=1 fsdp=4 tensor=1' in done.stdout
  # Two layers stacked, the first axis whole and the second a quarter.
  assert re.search(r'transformer/layers/\S+ \(2, 128, 128\) over .*: \(2, (32, 128|128, 32)\)', done.stdout)


@pytest.mark.parametrize('topology', ['v5e:3x5x7', 'v9z:2x2', 'nonsense'])
def test_a_topology_that_there_is_not_is_told_in_a_sentence(libtpu, topology):
  done = command(*SMALL, f'--topology={topology}')
  assert (done.returncode, done.stdout) == (2, '')
  assert len(told(done)) == 1 and f'--topology={topology}' in told(done)[0]


def test_the_recipe_that_is_named_here_exists():
  assert (gin_directory() / 'recipes' / 'tiny_semantic.gin').is_file()
