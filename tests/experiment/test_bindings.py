"""What people bind by gin: misspelt names, wrong types and statements that lose are told."""

import json
import os
import subprocess
import sys

import pytest
import small

# gin's bindings are global: one process for all cases, since each start costs seconds.
CODE = """
import contextlib, io, json, sys, warnings
import gin
from v2meow_jax import terminal
from v2meow_jax.experiment import configuration, experiment

answers = {}
for name, argv in json.loads(sys.stdin.read()).items():
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = ['']
  error = io.StringIO()

  def main(arguments):
    configuration.load(configuration.parse(configuration.parser('v2meow train', None), arguments))

  with contextlib.redirect_stderr(error):
    status = terminal.run(main, argv)
  answers[name] = [status, error.getvalue()]
print(json.dumps(answers))
"""

RECIPE = '--gin_file=recipes/tiny_coarse.gin'
REFUSED = {
  '--gin.BACTH_SIZE=2': 'nothing reads BACTH_SIZE here; near it are BATCH_SIZE',
  '--gin.TOTL_STEPS=3': 'near it are TOTAL_STEPS',
  '--gin.adafactor.decay_rate=0.3': 'nothing reads adafactor.decay_rate here',
  '--gin.semantc/Stream.codes=512': 'near it are semantic/Stream.codes',
  '--gin.Partitioner.ici_mesh_shape=(1, 1, 1)': 'nothing reads Partitioner.ici_mesh_shape here',
  '--gin.BATCH_SIZE=8.0': 'stage_batches.batch_size takes int, not 8.0',
  '--gin.BATCH_SIZE="8"': "stage_batches.batch_size takes int, not '8'",
  '--gin.BATCH_SIZE=True': 'stage_batches.batch_size takes int, not True',
  '--gin.TransformerConfig.qk_norm="False"': 'TransformerConfig.qk_norm takes bool',
  '--gin.adamw.b1="x"': 'adamw.b1 takes float',
  '--gin.OPTIMIZER=@adamw': 'write @adamw()',
  '--gin.Settings.profile_steps=(1, 2, 3)': 'Settings.profile_steps takes',
}
ACCEPTED = (
  '--gin.BATCH_SIZE=8', '--gin.adamw.b1=1', '--gin.OPTIMIZER=@adafactor()',
  '--gin.SCHEDULE=@warmup_constant()',
  '--gin.SEED/gin.macro.value=3', '--gin.Settings.profile_steps=(1, 2)', '--gin.train.eval_batches=None',
  '--gin.v2meow_jax.training.optimizers.adamw.weight_decay=0.1', '--gin.COARSE_CROP="5/2"',
  '--gin.train/stage_batches.seed=4', '--gin.Stage.conditions=(@motion/Condition(),)',
)  # fmt: skip


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
  folder = tmp_path_factory.mktemp('gin')
  (folder / 'own.gin').write_text('BATCH_SIZE = 3\nSEED = 0\n')
  (folder / 'odd.gin').write_text("include 'recipes/tiny_coarse.gin'\n\nBACTH_SIZE = 3\n")
  base = ['--gin.MODEL_DIR="m"', '--gin.DATASET_DIR="d"']
  asked = {case: [RECIPE, *base, case] for case in (*REFUSED, *ACCEPTED)}
  asked['own before'] = ['--gin_file=own.gin', RECIPE, *base]
  asked['own behind'] = [RECIPE, '--gin_file=own.gin', *base]
  asked['own misspelt'] = ['--gin_file=odd.gin', *base]
  asked['ablation'] = [RECIPE, '--gin_file=streams/clip_and_flow.gin', *base]
  done = subprocess.run(
    [sys.executable, '-c', CODE], input=json.dumps(asked), capture_output=True, text=True, cwd=folder,
    env=os.environ | {'PYTHONPATH': str(small.ROOT)},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize('case', REFUSED)
def test_what_nothing_reads_and_what_is_of_a_wrong_type_is_refused(answers, case):
  status, error = answers[case]
  assert status == 2 and REFUSED[case] in error and error.count('\n') == 1
  assert case in error


@pytest.mark.parametrize('case', ACCEPTED)
def test_what_is_read_is_accepted(answers, case):
  assert answers[case] == [0, '']


def test_a_statement_of_ones_own_that_loses_is_told_with_both_places(answers):
  status, error = answers['own before']
  assert status == 0 and error.count('\n') == 1  # the seed is the same in both
  assert 'own.gin, line 1: BATCH_SIZE = 3 gives way to 16 of runs/tiny.gin, line' in error
  assert answers['own behind'] == [0, '']


def test_a_misspelt_name_in_a_file_is_refused_with_its_line(answers):
  status, error = answers['own misspelt']
  assert status == 2 and 'odd.gin, line 3: nothing reads BACTH_SIZE' in error


def test_an_ablation_of_the_visual_features_is_one_include(answers):
  assert answers['ablation'] == [0, '']
