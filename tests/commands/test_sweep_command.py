"""`v2meow sweep`: what it plans, what it refuses in one sentence, and a quick pipeline to its page."""

import json
import subprocess
import sys

import pytest

from v2meow_jax import terminal
from v2meow_jax.commands import sweep
from v2meow_jax.sweeps import difference

CODE = 'import sys\nfrom v2meow_jax import cli\nsys.exit(cli.main(["sweep", *sys.argv[1:]]))\n'


def run(*arguments, cwd):
  return subprocess.run(
    [sys.executable, '-c', CODE, *map(str, arguments)], capture_output=True, text=True, cwd=cwd
  )


QUICK = """
Sweep.steps = (@first/Step(), @second/Step())
Sweep.axes = (@kind/Axis(),)
kind/Axis.values = ('--version', '--help')
first/Step.command = '--version'
second/Step.command = 'bundle'
second/Step.arguments = ('{kind}', '{first}')
"""


@pytest.mark.slow
def test_a_pipeline_runs_to_its_page_and_what_fails_is_told(tmp_path):
  (tmp_path / 'mine.gin').write_text(QUICK)
  done = run('mine.gin', '--out=made', '--jobs=2', cwd=tmp_path)
  # `v2meow bundle --version` is no command of bundle's, `--help` is.
  assert done.returncode == 1, done.stderr
  states = {
    path.parent.name.rsplit('-', 1)[0]: json.loads(path.read_text())
    for path in tmp_path.glob('made/*/*/state.json')
  }
  assert [states[name]['state'] for name in ('all', 'kind=--version', 'kind=--help')] == [
    'done',
    'failed',
    'done',
  ]
  assert 'v2meow: second/kind=--version-' in done.stderr and 'Traceback' not in done.stderr
  assert '| kind | status |' in done.stdout and 'index.html' in done.stdout
  page = (tmp_path / 'made' / 'index.html').read_text()
  assert 'last words' in page and 'http-equiv' not in page
  trials = json.loads((tmp_path / 'made' / 'trials.json').read_text())
  assert [trial['choices'] for trial in trials] == [{'kind': '--version'}, {'kind': '--help'}]
  assert trials[0]['work']['first'] == trials[1]['work']['first']
  # Again: only what had failed.
  before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('made/*/*/log.txt')}
  assert run('mine.gin', '--out=made', cwd=tmp_path).returncode == 1
  changed = [path.parent.name for path in before if path.stat().st_mtime_ns != before[path]]
  assert [name.rsplit('-', 1)[0] for name in changed] == ['kind=--version']


def test_a_dry_run_tells_sizes_and_writes_nothing(small_dataset, tmp_path):
  done = run('sweeps/positions.gin', f'--gin.DATASET="{small_dataset}"', '--dry_run', cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[0].split()[:3] == ['trial', 'parameters', 'steps'] and len(lines) == 12
  assert lines[1].split()[:3] == ['positions=time', 'seed=0', '0.32M'] and '9 of them to be done' in lines[10]
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (['none.gin'], 'none.gin'),
    (['sweeps/positions.gin'], 'DATASET is not set'),
    (['sweeps/positions.gin', '--gin.DATASET="none"'], 'none: no clips.jsonl there'),
    (['sweeps/positions.gin', '--gin.DATASET="none"', '--gin.Sweep.seed=3'], "a parameter named 'seed'"),
    (['sweeps/positions.gin', '--gin.DATASET="none"', '--jobs=0'], '--jobs must be at least 1'),
    (['diff', 'here', 'there'], 'here: no config.gin there'),
  ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_sentence(arguments, words, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  import gin

  gin.clear_config()
  assert terminal.run(sweep.main, arguments) == 2
  error = capsys.readouterr().err
  assert words in error and error.startswith('v2meow: ') and error.count('\n') == 1
  gin.clear_config()
  assert list(tmp_path.iterdir()) == []


def test_how_two_runs_differ(tmp_path):
  for name, layers, loss in (('a', 1, 3.0), ('b', 2, 2.5)):
    run_dir = tmp_path / name / 'run'
    run_dir.mkdir(parents=True)
    (run_dir / 'config.gin').write_text(
      f"# Data: 1\n\nMODEL_DIR = '{name}'\nTransformerConfig.layers = {layers}\nSEED/gin.macro.value = 3\n"
    )
    row = {'step': 5, 'split': 'validation', 'time': 0, 'loss': loss}
    (run_dir / 'metrics.jsonl').write_text(json.dumps(row) + '\n')
  assert difference.tell(tmp_path / 'a', tmp_path / 'b' / 'run') == [
    'TransformerConfig.layers: 1 -> 2', 'validation/loss: 3 -> 2.5 (-0.5)',
  ]  # fmt: skip
  assert difference.tell(tmp_path / 'a', tmp_path / 'a')[0] == 'nothing is configured otherwise'
