"""`python -m v2meow_jax COMMAND`: the console command without its script."""

import sys

from v2meow_jax import cli

sys.exit(cli.main())
