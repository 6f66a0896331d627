"""`python -m v2meow_jax.train --gin_file=...`, as T5X's users are used to: `v2meow train` by another name."""

import sys

from v2meow_jax import cli

if __name__ == '__main__':
  sys.exit(cli.main(['train', *sys.argv[1:]]))
