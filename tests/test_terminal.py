"""What a command says where its output is no terminal, and what it keeps from one."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import small

from v2meow_jax import terminal

ENV = os.environ | {'PYTHONPATH': str(small.ROOT)}


def test_a_part_has_a_line_when_it_is_done(capsys):
  with terminal.Progress() as progress:
    for done in range(21):
      progress.update('fine', done, 20)
    for _ in progress.track(range(3), 3, 'shards'):
      pass
    progress.say('by the way')
  assert capsys.readouterr().err.splitlines() == ['fine: 20 of 20', 'shards: 3 of 3', 'by the way']


def test_long_work_has_a_line_now_and_then(capsys, monkeypatch):
  monkeypatch.setattr(terminal, 'LINE_SECONDS', 0.0)
  with terminal.Progress() as progress:
    for done in (1, 2):
      progress.update('coarse', done, 9)
  assert capsys.readouterr().err.splitlines() == ['coarse: 1 of 9', 'coarse: 2 of 9']


def test_on_a_terminal_one_line_is_updated():
  code = (
    'from v2meow_jax import terminal\n'
    'with terminal.Progress() as progress:\n'
    '  for name in ("semantic", "coarse"):\n'
    '    for done in range(5): progress.update(name, done + 1, 5)\n'
  )
  done = subprocess.run(
    ['script', '-qec', f"{sys.executable} -c '{code}'", '/dev/null'], capture_output=True, env=ENV, text=True
  )
  assert '5/5' in done.stdout and 'semantic' in done.stdout and done.stdout.count('\n') <= 4


@pytest.mark.parametrize(('command', 'status'), [('train', 75), ('prepare', 143)])
def test_a_signal_before_the_work_has_its_exit_status_and_no_traceback(command, status):
  code = f'''
import sys, time, types
from v2meow_jax import cli
module = types.ModuleType("v2meow_jax.commands.{command}")
def main(argv):
  print("begun", flush=True)
  time.sleep(60)
module.main = main
sys.modules["v2meow_jax.commands.{command}"] = module
sys.exit(cli.main(["{command}"]))
'''
  process = subprocess.Popen(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV
  )
  assert process.stdout.readline() == 'begun\n'
  process.send_signal(signal.SIGTERM)
  error = process.communicate(timeout=20)[1]
  assert process.returncode == status and error == 'v2meow: stopped by a signal\n'


def test_what_a_library_says_while_it_is_imported_is_kept_unless_it_fails(tmp_path):
  (tmp_path / 'loud.py').write_text('import os\nos.write(2, b"I0000 all about me\\n")\n')
  (tmp_path / 'broken.py').write_text('import os\nos.write(2, b"E0000 why\\n")\nraise ImportError("no")\n')
  code = (
    'import sys\nfrom v2meow_jax import terminal\n'
    'def main(argv):\n  with terminal.hushed():\n    __import__(argv[0])\n'
    '  return 0\n'
    'sys.exit(terminal.run(main, sys.argv[1:]))\n'
  )
  env = ENV | {'PYTHONPATH': f'{small.ROOT}:{tmp_path}'}

  def run(*arguments):
    done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True, env=env)
    return done.stderr

  assert run('loud') == ''
  assert run('loud', '--debug') == 'I0000 all about me\n'
  assert run('broken').startswith('E0000 why\n')


JOBS = """
import os, pathlib, sys, time
from v2meow_jax import terminal, workers
from v2meow_jax.files import replaced_when_done

def job(folder):
  with replaced_when_done(pathlib.Path(folder) / "result") as temporary:
    pathlib.Path(temporary).write_text("half")
    (pathlib.Path(folder) / f"pid_{os.getpid()}").touch()
    time.sleep(120)

def main(argv):
  with workers.pool(2) as pool:
    for future in [pool.submit(job, argv[0]) for _ in range(2)]:
      future.result()

if __name__ == "__main__":
  sys.exit(terminal.run(main, sys.argv[1:]))
"""


def alive(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
  except (FileNotFoundError, ProcessLookupError):
    return False


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent_and_leave_nothing_half_written(tmp_path, number):
  program, folder = tmp_path / 'jobs.py', tmp_path / 'out'
  program.write_text(JOBS)
  folder.mkdir()
  process = subprocess.Popen([sys.executable, program, folder], env=ENV, stderr=subprocess.PIPE, text=True)
  deadline = time.monotonic() + 60
  while len(found := list(folder.glob('pid_*'))) < 2 and time.monotonic() < deadline:
    time.sleep(0.1)
  pids = [int(path.name.removeprefix('pid_')) for path in found]
  assert len(pids) == 2
  process.send_signal(number)
  error = process.communicate(timeout=30)[1]
  assert 'Traceback' not in error
  deadline = time.monotonic() + 15
  while any(map(alive, pids)) and time.monotonic() < deadline:
    time.sleep(0.1)
  assert not any(map(alive, pids))
  assert {path.name for path in folder.iterdir()} == {f'pid_{pid}' for pid in pids}


@pytest.mark.parametrize(
  'command', ['prepare --out=ds --manifest=gs://b/m', 'generate a.mp4 --bundle=b --out=s3://b/x']
)
def test_an_objects_address_is_refused_where_only_files_are_read_and_written(command, tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', 'v2meow_jax', *command.split()],
    capture_output=True,
    text=True,
    env=ENV,
    cwd=tmp_path,
  )
  assert done.returncode == 2 and 'lies on an object store' in done.stderr
  assert not list(tmp_path.iterdir())
