"""Pictures that a process beside draws."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from fractions import Fraction

import numpy as np
import pytest

from v2meow_jax import drawing, painter
from v2meow_jax.streams import Stream

STREAM = Stream('video/motion', 'embedding', Fraction(4), 14)
NOISE = np.random.default_rng(0).standard_normal((8, 14))


def picture(path, title='A title', seconds=1):
  return path, 0.1 * np.ones((8000 * seconds, 1), np.float32), 8000, [(STREAM, NOISE)], title


@pytest.fixture
def here(monkeypatch):
  """Counts pictures that are drawn in this process."""
  drawn, draw = [], drawing.draw
  monkeypatch.setattr(drawing, 'draw', lambda *given: drawn.append(given[0]) or draw(*given))
  return drawn


@pytest.fixture
def two_cores(monkeypatch):
  monkeypatch.setattr('v2meow_jax.workers.cores', lambda: 2)


def test_the_process_draws_what_this_one_would(tmp_path, here, two_cores):
  with painter.beside() as artist:
    for name in ('a.png', 'b.png'):
      artist.begin(*picture(tmp_path / name))()
    assert not here
  drawing.draw(*picture(tmp_path / 'c.png'))
  assert len({(tmp_path / name).read_bytes() for name in ('a.png', 'b.png', 'c.png')}) == 1
  assert artist._process.returncode == -signal.SIGKILL


@pytest.mark.parametrize('cores', [1, 2])
def test_without_a_core_or_a_wish_this_process_draws(tmp_path, here, monkeypatch, cores):
  monkeypatch.setattr('v2meow_jax.workers.cores', lambda: cores)
  with painter.beside(wanted=cores == 1) as artist:
    assert artist._process is None
    artist.begin(*picture(tmp_path / 'a.png'))()
  assert here == [tmp_path / 'a.png'] == list(tmp_path.iterdir())


def test_a_process_that_cannot_be_begun_is_done_without(tmp_path, here, two_cores, monkeypatch):
  monkeypatch.setattr(sys, 'executable', str(tmp_path / 'nothing'))
  with painter.beside() as artist:
    artist.begin(*picture(tmp_path / 'a.png'))()
  assert here == [tmp_path / 'a.png']


@pytest.mark.parametrize('when', ['before', 'while it draws'])
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_is_missed_by_nobody(tmp_path, here, two_cores, when, number):
  with painter.beside() as artist:
    if when == 'before':
      os.kill(artist._process.pid, number)
      artist._process.wait()
    finish = artist.begin(*picture(tmp_path / 'a.png', seconds=600))
    if when != 'before':
      os.kill(artist._process.pid, number)
    finish()
    artist.begin(*picture(tmp_path / 'b.png'))()
  assert here == [tmp_path / 'a.png', tmp_path / 'b.png']
  assert {path.suffix for path in tmp_path.iterdir() if not path.name.startswith('.')} == {'.png'}


def test_what_goes_wrong_is_told_here_and_the_next_one_is_drawn(tmp_path, here, two_cores):
  with painter.beside() as artist:
    with pytest.raises(FileNotFoundError):
      artist.begin(*picture(tmp_path / 'no folder' / 'a.png'))()
    here.clear()
    artist.begin(*picture(tmp_path / 'left.png'))  # as where what is done meanwhile fails
    artist.begin(*picture(tmp_path / 'b.png'))()
  assert not here
  assert sorted(os.listdir(tmp_path)) == ['b.png', 'left.png']


def test_it_ends_with_the_process_that_began_it_and_runs_no_script_again(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(
    textwrap.dedent("""
      import time
      from v2meow_jax import painter, workers
      workers.cores = lambda: 2
      with painter.beside() as artist:
        print(artist._process.pid, flush=True)
        time.sleep(60)
    """)
  )
  with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
    began = int(process.stdout.readline())
    os.kill(began, 0)
    process.kill()
    assert not process.stdout.read()
  end = time.monotonic() + 20
  while time.monotonic() < end:
    try:
      os.kill(began, 0)
      with open(f'/proc/{began}/stat') as file:
        if file.read().split()[2] == 'Z':
          break
    except (ProcessLookupError, FileNotFoundError):
      break
    time.sleep(0.05)
  else:
    pytest.fail('it lives on')
