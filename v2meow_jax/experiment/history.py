"""With which configuration a run was trained from which step on."""

import re

from etils import epath

from v2meow_jax import errors, files, terminal
from v2meow_jax.experiment.bindings import statements

# What decides which examples a run sees: with another value it would see some again, or skip some.
_ORDER = re.compile(r'(^|[./])(seed|SEED|batch_size|BATCH_SIZE)(/gin\.macro\.value)?$')
_DATA = re.compile(r'^# Data: (\w+)$', re.MULTILINE)


def record(run_dir: epath.PathLike, text: str, data: str, step: int, allow: bool, write: bool) -> None:
  """Writes `config.gin`; keeps those that held before, and tells what has changed since.

  Args:
    run_dir: the run's.
    text: the configuration from this step on.
    data: a hash of the data.
    step: that training goes on from.
    allow: whether what decides which examples the run sees may change.
    write: whether this process is the one that writes.

  Raises:
    errors.ConfigError: it changes, and may not.
  """
  path = epath.Path(run_dir) / 'config.gin'
  text = f'# Data: {data}\n\n{text}'
  before = path.read_text() if step and path.exists() else text
  old, new = statements(before), statements(text)
  changed = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
  told = {name: f'{name} {old.get(name, "nothing")} -> {new.get(name, "nothing")}' for name in changed}
  order = [told[name] for name in changed if _ORDER.search(name)]
  had = _DATA.search(before)
  if had and had[1] != data:
    order.append(f'dataset ({had[1]} -> {data})')
  if order and not allow:
    raise errors.ConfigError(
      f'{run_dir}: up to step {step} it was trained with another {"; ".join(order)}, and the examples that '
      'follow would be others; take the old values, or add --allow_changes'
    )
  if not write:
    return
  if told or order:
    # Each keeps the step up to which it held.
    files.write_text(path.parent / f'config_until_{step}.gin', before)
    terminal.say(f'{run_dir}: from step {step} on with {"; ".join(told.values()) or order[0]}')
  # In one piece: the other processes of the run are reading what held before.
  files.write_text(path, text)
