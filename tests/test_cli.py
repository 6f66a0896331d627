"""The command line: quick to answer, one sentence for bad input, and gin as T5X has it."""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from v2meow_jax import cli, terminal
from v2meow_jax.experiment import configuration, experiment

RECIPES = sorted(path.name for path in (configuration.gin_directory() / 'recipes').glob('*.gin'))


def test_help_answers_within_a_second_and_imports_no_jax():
  code = (
    'import sys\nfrom v2meow_jax import cli\nstatus = cli.main(["--help"])\n'
    'assert not {"jax", "numpy", "gin", "av"} & set(sys.modules)\nsys.exit(status)'
  )
  began = time.perf_counter()
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert time.perf_counter() - began < 1
  assert all(name in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_command_is_also_a_module(name):
  module = importlib.import_module(f'v2meow_jax.commands.{name.replace("-", "_")}')
  with pytest.raises(SystemExit) as left:
    module.main(['--help'])
  assert left.value.code == 0


def test_an_unknown_command(capsys):
  assert cli.main(['compose']) == 2
  assert "no command 'compose'" in capsys.readouterr().err


def test_debug_shows_where_it_happened(capsys):
  from v2meow_jax import errors

  def fail(argv):
    raise errors.InputError(f'two\nlines {argv}')

  assert terminal.run(fail, ['--debug', 'x']) == 2
  assert 'Traceback' in capsys.readouterr().err
  assert terminal.run(fail, ['x']) == 2
  assert capsys.readouterr().err == "v2meow: two lines ['x']\n"


def told(*arguments):
  """Exit status and standard error of `v2meow train` in a process of its own: gin's bindings are global."""
  done = subprocess.run(
    [sys.executable, '-m', 'v2meow_jax.train', *arguments], capture_output=True, text=True, timeout=120
  )
  assert 'Traceback' not in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  return done.returncode, done.stderr


# gin's bindings are global: one process for all cases, since each start costs seconds.
ONE_BY_ONE = """
import contextlib, io, json, sys
import gin
from v2meow_jax import cli
found = []
for arguments in json.load(sys.stdin):
  gin.clear_config()
  with contextlib.redirect_stderr(io.StringIO()) as told:
    status = cli.main(['train', *arguments])
  found.append((status, told.getvalue()))
print(json.dumps(found))
"""
TINY = '--gin_file=recipes/tiny_semantic.gin'
BAD = {
  'none': ((), 'no --gin_file is given'),
  'missing': (('--gin_file=recipes/none.gin',), 'recipes/none.gin'),
  'parameter': ((TINY, '--gin.Stage.nam="x"'), 'nam'),
  'configurable': ((TINY, '--gin.Scale.size=3'), "No configurable matching 'Scale'"),
  'form': ((TINY, '--gin.BATCH_SIZE'), 'reads --gin.NAME=VALUE'),
  'required': ((TINY, '--gin.DATASET_DIR="nowhere"'), 'MODEL_DIR is not set'),
}


@pytest.fixture(scope='module')
def answers():
  asked = json.dumps([arguments for arguments, _ in BAD.values()])
  done = subprocess.run([sys.executable, '-c', ONE_BY_ONE], input=asked, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return dict(zip(BAD, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize('case', BAD)
def test_bad_configurations_get_one_sentence(answers, case):
  status, error = answers[case]
  assert status == 2 and BAD[case][1] in error and len(error.strip().splitlines()) == 1


def test_a_missing_dataset_leaves_no_run(tmp_path):
  run = tmp_path / 'run'
  status, error = told(
    '--gin_file=recipes/tiny_semantic.gin', f'--gin.MODEL_DIR="{run}"', f'--gin.DATASET_DIR="{tmp_path}"'
  )
  assert status == 2 and 'no clips.jsonl' in error
  assert not run.exists()


def test_folders_of_the_gin_files_names_do_not_disturb(tmp_path):
  for name in ('runs', 'models', 'data', 'streams'):
    (tmp_path / name).mkdir()
  done = subprocess.run(
    [sys.executable, '-m', 'v2meow_jax.train', '--gin_file=recipes/tiny_semantic.gin'],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(pathlib.Path(cli.__file__).parent.parent)},
  )
  assert done.returncode == 2 and 'is not set' in done.stderr, done.stderr


@pytest.fixture(scope='module')
def parsed():
  """Builds each recipe's trainable in one process, since every start costs seconds."""
  code = """
import argparse, sys, gin
from v2meow_jax.experiment import configuration
from v2meow_jax.experiment import experiment
for name in sys.argv[1:]:
  gin.clear_config()
  args = argparse.Namespace(gin_file=[f"recipes/{name}"], bindings=['MODEL_DIR="m"', 'DATASET_DIR="d"'],
                            gin_search_paths="")
  configuration.load(args)
  built = gin.query_parameter("train.trainable").configurable.wrapper()
  batches = gin.query_parameter("train.batches").scoped_configurable_fn()
  stage = getattr(built, "stage", None)
  print(name, type(built).__name__, batches.batch_size, stage and (stage.prefix_length, stage.steps))
"""
  done = subprocess.run([sys.executable, '-c', code, *RECIPES], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()}


def test_every_recipe_builds_what_it_trains(parsed):
  assert set(parsed) == set(RECIPES)


def test_the_full_size_stages_have_the_published_lengths(parsed):
  # 30 s at 1 Hz of two features, 750 semantic tokens; 10 s: 4 levels of 50 Hz; 3 s: 8 levels of 50 Hz.
  for network in ('v2meow', 'v2meow_musiclm'):
    assert parsed[f'{network}_semantic.gin'].endswith('(60, 750)')
    assert parsed[f'{network}_coarse.gin'].endswith('(270, 2000)')
    assert parsed[f'{network}_fine.gin'].endswith('(150, 1200)')


def test_the_entry_points_are_keyword_only():
  import inspect

  kinds = {parameter.kind for parameter in inspect.signature(experiment.train).parameters.values()}
  assert kinds == {inspect.Parameter.KEYWORD_ONLY}
