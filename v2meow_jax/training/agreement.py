"""Processes of a run compare what they are about to do, and learn of each other's bad input, before it.

Everything goes through JAX's coordination service, so it costs no step and works before a mesh does.
"""

import hashlib
import json
import time
from collections.abc import Mapping

import jax
from orbax.checkpoint import multihost

from v2meow_jax import errors

SECONDS = 600.0  # that the slowest process may need to read its configuration and data
_FAILED = 'v2meow/failed/'


def agree(what: str, told: Mapping[str, str]) -> None:
  """Waits for all processes, and compares what each of them tells.

  Args:
    what: of which there is one such comparison in a run.
    told: name -> value; the same in every process, or the run must not start.

  Raises:
    errors.ConfigError: two processes differ, in all of them; or another one has failed or does not come.
  """
  if jax.process_count() == 1:
    return
  client, folder = multihost.get_jax_distributed_client(), f'v2meow/agree/{what}/'
  client.key_value_set(f'{folder}{jax.process_index()}', json.dumps(dict(told)))
  deadline = time.monotonic() + SECONDS
  while True:
    check_others()
    said = {int(key.rsplit('/', 1)[-1]): json.loads(value) for key, value in client.key_value_dir_get(folder)}
    if len(said) == jax.process_count():
      break
    if time.monotonic() > deadline:
      missing = sorted(set(range(jax.process_count())) - said.keys())
      raise errors.ConfigError(f'process {missing[0]} has not come to {what} in {SECONDS:g} s')
    time.sleep(0.1)
  first = said[0]
  for process, other in sorted(said.items()):
    for name in sorted(first.keys() | other.keys()):
      if first.get(name) != other.get(name):
        raise errors.ConfigError(
          f'processes 0 and {process} differ in {name}: {first.get(name, "nothing")} and '
          f'{other.get(name, "nothing")}; start all of them with the same configuration, version and data'
        )


def tell_failure(message: str) -> None:
  """Lets the other processes know that this one cannot go on, and why."""
  if jax.process_count() > 1:
    client = multihost.get_jax_distributed_client()
    client.key_value_set(f'{_FAILED}{jax.process_index()}', message, allow_overwrite=True)


def check_others() -> None:
  """Raises `errors.InputError` with the sentence of another process that cannot go on."""
  if jax.process_count() == 1:
    return
  for key, message in multihost.get_jax_distributed_client().key_value_dir_get(_FAILED):
    process = int(key.rsplit('/', 1)[-1])
    if process != jax.process_index():
      raise errors.InputError(f'process {process}: {message}')


def digest(text: str) -> str:
  """A short hash for `agree`."""
  return hashlib.sha256(text.encode()).hexdigest()[:16]
