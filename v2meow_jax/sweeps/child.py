"""`python -m v2meow_jax.sweeps.child PARENT COMMAND ...`: a command that ends when its parent does.

By Linux's own means, so that it holds however the parent ends; elsewhere it is a command like any other.
"""

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_AGAIN = 75  # `terminal.AGAIN`, whose module is not imported before the command is

if __name__ == '__main__':
  parent = int(sys.argv[1])
  if sys.platform == 'linux':
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it went before it could be asked for
      sys.exit(_AGAIN)
  sys.argv[1:] = sys.argv[2:]
  runpy.run_module('v2meow_jax', run_name='__main__')
