"""What commands set before they run networks."""

import os
import platform
import subprocess
import sys

import pytest

from v2meow_jax import runtime

LARGE = """
import resource, sys
import numpy as np
from v2meow_jax import runtime

def resident():
  return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()

if sys.argv[1] == 'again':
  runtime.use_memory_again()
before = resident()
large = np.ones(2**25)
assert resident() - before > 2**27
del large
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
large = np.ones(2**25)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""

THREADS = """
import resource, sys, threading
import numpy as np
from v2meow_jax import runtime

if sys.argv[1] == 'again':
  runtime.use_memory_again()

def fill():
  np.ones(3 * 2**20)  # 24 MiB, which a thread's own memory has room for

fill()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
  thread = threading.Thread(target=fill)
  thread.start()
  thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


GIVEN_BACK = """
import resource
import numpy as np
from v2meow_jax import runtime

def resident():
  return int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()

runtime.use_memory_again()
before = resident()
large = np.ones(2**25)
small = np.ones(2**10)  # lies behind it
del large
kept = resident() - before
runtime.give_back(2**29)
too_little = resident() - before
runtime.give_back(2**27)
print(kept, too_little, resident() - before)
"""


@pytest.mark.skipif(not hasattr(runtime._libc(), 'mallinfo2'), reason='glibc from 2.33 on is told')
def test_much_memory_that_is_free_is_given_back():
  told = subprocess.run([sys.executable, '-c', GIVEN_BACK], capture_output=True, check=True).stdout
  kept, too_little, left = map(int, told.split())
  assert kept > 2**27 and too_little > 2**27 and left < 2**25


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='glibc alone is told')
@pytest.mark.parametrize('program', [LARGE, THREADS], ids=['a large array', 'arrays of several threads'])
def test_memory_that_is_used_again_is_not_asked_of_the_system_again(program):
  def faults(how):
    return int(subprocess.run([sys.executable, '-c', program, how], capture_output=True, check=True).stdout)

  assert faults('again') < 0.1 * faults('not')


@pytest.mark.parametrize(
  ('chosen', 'there', 'tpu', 'left', 'used_again'),
  [
    (None, (), False, None, True),
    ('cpu', ('libtpu', 'jax_cuda12_plugin'), True, 'cpu', True),
    (None, ('libtpu',), False, 'cpu', True),
    (None, ('libtpu',), True, None, False),
    (None, ('jax_cuda12_plugin',), False, None, False),
    (None, ('libtpu', 'jax_cuda13_plugin'), False, None, False),
    ('cuda,cpu', (), False, 'cuda,cpu', False),
  ],
)
def test_memory_is_used_again_where_jax_finds_nothing_but_cpus(
  monkeypatch, chosen, there, tpu, left, used_again
):
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  if chosen:
    monkeypatch.setenv('JAX_PLATFORMS', chosen)
  asked = []
  monkeypatch.setattr(runtime, 'use_memory_again', lambda: asked.append(True))
  monkeypatch.setattr(runtime, '_tpu', lambda: tpu)
  monkeypatch.setattr(runtime.importlib.util, 'find_spec', lambda name: name in there)
  runtime.begin()
  assert runtime.os.environ.get('JAX_PLATFORMS') == left
  assert bool(asked) == used_again


def test_a_cache_that_is_named_empty_is_none():
  program = 'from v2meow_jax import runtime; runtime.set_up(); import jax; print(jax.config.values[NAME])'
  program = program.replace('NAME', "'jax_compilation_cache_dir'")
  variables = os.environ | {'JAX_COMPILATION_CACHE_DIR': ''}
  made = subprocess.run([sys.executable, '-c', program], env=variables, capture_output=True, check=True)
  assert made.stdout.strip() == b'None'
