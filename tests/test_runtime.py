"""What commands set before they run networks."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
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


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='glibc alone is told')
def test_memory_that_is_used_again_is_not_asked_of_the_system_again():
  def faults(how):
    return int(subprocess.run([sys.executable, '-c', PROGRAM, how], capture_output=True, check=True).stdout)

  assert faults('again') < 0.1 * faults('not')
