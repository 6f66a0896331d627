"""How work is run: in which order, what is tried again, and what a failure or an interruption costs."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from v2meow_jax import errors, stopping
from v2meow_jax.sweeps import driving, launchers, running, state
from v2meow_jax.sweeps.running import Runner
from v2meow_jax.sweeps.state import State
from v2meow_jax.sweeps.sweep import Step, Train
from v2meow_jax.sweeps.trials import Work


def work(name, *inputs, command='export', out='out', **fields):
  needs = {other.step.name: other for other in inputs}
  step = Step(name, command, tuple(f'{{{other}}}' for other in needs), out=out, **fields)
  return Work(step, f'{name}-sign', 'all', {}, needs)


class Fake:
  """A launcher whose jobs end with the statuses they are told to, one poll after they began."""

  def __init__(self, **statuses):
    self.statuses, self.started, self.most, self.live = statuses, [], 0, 0
    self.stopped = []

  def start(self, arguments, folder, slot):
    name = folder.parent.name
    self.started.append(name)
    self.live += 1
    self.most = max(self.most, self.live)
    launcher = self

    class Job:
      identity = ''

      def __init__(self):
        self.polls, self.status = 0, None

      def poll(self):
        self.polls += 1
        if self.status is None and self.polls > 1:
          given = launcher.statuses.get(name, [0])
          self.status = given.pop(0) if len(given) > 1 else given[0]
          with (folder / 'log.txt').open('a') as log:
            log.write(f'2026-11-28 starting\nv2meow: {name} said this\n' if self.status else 'well\n')
          launcher.live -= 1
        return self.status

      def stop(self):
        launcher.stopped.append(name)

    return Job()

  def found(self, identity, folder):
    return None


def run(tmp_path, works, launcher, **options):
  runner = Runner(tmp_path, launcher, say=lambda text: None, **options)
  runner.run(works)
  return runner


def test_inputs_come_first_and_so_many_at_once(tmp_path):
  a, b = work('a'), work('b')
  c = work('c', a)
  d = work('d', c, b)
  launcher = Fake()
  runner = run(tmp_path, [a, b, c, d], launcher, jobs=2)
  assert launcher.started in (['a', 'b', 'c', 'd'],) and launcher.most == 2
  assert all(runner.states[w.signature].done() for w in (a, b, c, d))
  again = Fake()
  run(tmp_path, [a, b, c, d], again, jobs=2)
  assert again.started == []


def test_what_fails_is_tried_again_so_often_and_the_rest_goes_on(tmp_path):
  a, b, c = work('a'), work('b'), work('c')
  d = work('d', a)
  launcher = Fake(a=[1], b=[137, 1, 0], c=[2])
  runner = run(tmp_path, [a, b, c, d, work('e')], launcher, retries=2)
  assert [launcher.started.count(name) for name in 'abcde'] == [3, 3, 1, 0, 1]
  states = {key.removesuffix('-sign'): found for key, found in runner.states.items()}
  assert [states[name].state for name in 'abcde'] == ['failed', 'done', 'failed', 'failed', 'done']
  assert states['a'].words == 'a said this' and states['a'].status == 1
  assert states['c'].words == 'c said this'  # bad input: once is enough
  assert states['d'].words == 'it needs a/all-a-sign, which failed'
  # The same command tries anew what had failed, and nothing else.
  again = Fake()
  run(tmp_path, [a, b, c, d], again)
  assert again.started == ['a', 'c', 'd']


def test_a_run_that_asks_for_more_goes_on_while_it_gets_on(tmp_path):
  a, b = work('a'), work('b')

  class Going(Fake):
    def start(self, arguments, folder, slot):
      job = super().start(arguments, folder, slot)
      if folder.parent.name == 'a':
        (folder / 'run' / 'checkpoints' / str(len(self.started))).mkdir(parents=True)
      return job

  launcher = Going(a=[75, 143, 75, 76, 75, 0], b=[75])
  # The fake writes its checkpoint when it starts, so what had been reached is looked at before that.
  states = run(tmp_path, [a, b], launcher, retries=1).states
  assert states['a-sign'].done() and launcher.started.count('a') == 6
  assert states['b-sign'].state == 'failed' and launcher.started.count('b') == 2


def test_a_damaged_folder_is_told_and_the_rest_goes_on(tmp_path):
  a, b = work('a'), work('b')
  folder = a.folder(tmp_path)
  folder.mkdir(parents=True)
  (folder / 'state.json').write_text('{"state": "done", "attempts": "many"}')
  launcher = Fake()
  runner = run(tmp_path, [a, b], launcher)
  assert launcher.started == ['b']
  assert 'state.json: damaged; remove the folder' in runner.states['a-sign'].words
  assert driving.states([], tmp_path) == {}


def test_what_a_command_left_is_removed_unless_it_goes_on_in_it(tmp_path):
  export, prepare = work('a'), work('b', command='prepare')
  for one in (export, prepare):
    one.output(tmp_path).mkdir(parents=True)
    (one.output(tmp_path) / 'left').write_text('x')
  run(tmp_path, [export, prepare], Fake())
  assert not export.output(tmp_path).exists() and (prepare.output(tmp_path) / 'left').exists()


def test_a_dataset_grows_without_changing_what_it_grew_from(tmp_path):
  source, out = tmp_path / 'source', tmp_path / 'out'
  (source / 'stream').mkdir(parents=True)
  (source / 'stream' / 'shard').write_bytes(bytes(2**20))
  (source / 'table').write_text('one\n')
  running.grow(source, out)
  (out / 'table').open('a').write('two\n')
  assert (source / 'table').read_text() == 'one\n'
  assert os.stat(source / 'stream' / 'shard').st_ino == os.stat(out / 'stream' / 'shard').st_ino
  assert os.stat(source / 'table').st_ino != os.stat(out / 'table').st_ino


def test_last_words_are_of_the_attempt_and_its_own(tmp_path):
  log = tmp_path / state.LOG
  log.write_text('v2meow: before\n')
  start = log.stat().st_size
  assert state.last_words(tmp_path, start) == ''
  log.open('a').write(
    'step 3\nTraceback (most recent call last):\n  File x\njax.errors.OOMError: too large\n\n'
  )
  assert state.last_words(tmp_path, start) == 'jax.errors.OOMError: too large'
  log.open('a').write('v2meow: the disk is full\nE0000 something\n')
  assert state.last_words(tmp_path, start) == 'the disk is full'
  assert state.last_words(tmp_path / 'none') == ''


def test_a_halved_run_is_done_up_to_its_rung():
  assert State('done', until=50).done(50) and State('done', until=50).done(20)
  assert not State('done', until=50).done() and not State('done', until=50).done(60)
  assert State('done').done(50) and State('done').done()
  assert not State('stopped').done(1)


def test_commands_run_here_and_what_they_say_goes_to_a_file(tmp_path):
  well, ill = work('a', command='--version'), work('b', command='nonsense')
  runner = run(tmp_path, [well, ill], launchers.Here(1))
  assert runner.states['a-sign'].done() and 0 < runner.states['a-sign'].seconds < 60
  assert (well.folder(tmp_path) / 'log.txt').read_text().startswith('0.')
  assert runner.states['b-sign'] == State(
    'failed',
    1,
    runner.states['b-sign'].seconds,
    2,
    "there is no command 'nonsense'; v2meow --help lists them",
  )


SLEEPER = """
import os, pathlib, sys
from v2meow_jax.sweeps import launchers
here = launchers.Here(1)
folder = pathlib.Path(sys.argv[1])
job = here.start(['serve', '--help'], folder, 0)
print(job._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='the signal at the death of a parent is Linux')
def test_a_command_ends_when_its_parent_is_killed(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', SLEEPER, str(tmp_path / 'a')], capture_output=True, text=True, timeout=120
  )
  assert done.returncode == -signal.SIGKILL
  child, deadline = int(done.stdout), time.monotonic() + 60
  while pathlib.Path(f'/proc/{child}').exists() and 'State:\tZ' not in _status(child):
    assert time.monotonic() < deadline
    time.sleep(0.1)
  # Its lock is free again, and its help, which takes seconds to be printed, was not.
  with launchers.locked(tmp_path / 'a' / '.lock') as lock:
    assert lock is not None
  assert 'usage' not in (tmp_path / 'a' / 'log.txt').read_text()


def _status(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return 'State:\tZ'


def test_a_sweep_has_one_driver(tmp_path):
  with driving.alone(tmp_path):
    code = 'import pathlib\nfrom v2meow_jax.sweeps import driving\n'
    code += f'with driving.alone(pathlib.Path({str(tmp_path)!r})): pass'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1 and 'another v2meow sweep is at work there' in done.stderr
  with driving.alone(tmp_path):
    pass


def test_an_interruption_stops_what_runs_and_records_it(tmp_path):
  a = work('a')
  launcher = Fake(a=[75])

  def stop(names):
    if names:
      raise stopping.Stopped

  with pytest.raises(stopping.Stopped):
    run(tmp_path, [a], launcher, changed=stop)
  assert launcher.stopped == ['a'] and state.read(a.folder(tmp_path)).state == 'stopped'


def test_slurm_that_is_not_there_is_told(monkeypatch):
  pytest.importorskip('submitit', reason='of the extra "sweep"')
  monkeypatch.setenv('PATH', '/nowhere')
  with pytest.raises(errors.ConfigError, match=r'^--slurm: .*srun.*; without it, trials run here$'):
    launchers.Slurm({})
  with pytest.raises(errors.ConfigError, match=r'--slurm: .*speed'):
    launchers.Slurm({'speed': 3}, 'local')


def test_jobs_of_submitit_are_run_and_their_failures_told(tmp_path):
  pytest.importorskip('submitit', reason='of the extra "sweep"')
  launcher = launchers.Slurm({'timeout_min': 2}, 'local')
  well, ill = work('a', command='--version'), work('b', command='nonsense')
  runner = run(tmp_path, [well, ill], launcher, jobs=2)
  assert runner.states['a-sign'].done()
  assert runner.states['b-sign'].words == "there is no command 'nonsense'; v2meow --help lists them"
  # A job that another driver had submitted is found again, and not submitted twice.
  folder = work('c').folder(tmp_path)
  job = launcher.start(['--version'], folder, 0)
  while job.poll() is None:
    time.sleep(0.1)
  state.write(folder, State('running', job=job.identity))
  before = (folder / 'log.txt').read_text()
  assert run(tmp_path, [work('c', command='--version')], launcher).states['c-sign'].done()
  assert (folder / 'log.txt').read_text() == before


def test_a_training_run_is_the_train_command_with_a_file_of_its_own(tmp_path):
  step = Train('stage', ('recipes/nano_semantic.gin',), dataset='ds', arguments=('--multiprocess',))
  one = Work(step, 'abc', 'all', {}, {}, statements=('SEED = 3',))
  runner = Runner(tmp_path, Fake(), say=lambda text: None)
  arguments = runner._ready(one, None) if one.folder(tmp_path).mkdir(parents=True) is None else []
  assert arguments == ['train', f'--gin_file={tmp_path}/stage/all-abc/trial.gin', '--multiprocess']
  assert runner._ready(one, 50)[-1] == '--gin.Settings.total_steps=50'
  text = (one.folder(tmp_path) / 'trial.gin').read_text()
  assert text.splitlines()[1:] == [
    "include 'recipes/nano_semantic.gin'", 'SEED = 3', "DATASET_DIR = 'ds'",
    f"MODEL_DIR = '{tmp_path}/stage/all-abc/run'",
  ]  # fmt: skip
