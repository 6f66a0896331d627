"""How two pieces of work, or any two runs, differ: their configurations, and what they came to."""

import pathlib

from v2meow_jax import errors
from v2meow_jax.experiment.bindings import statements
from v2meow_jax.sweeps import results

_SUFFIX = '/gin.macro.value'


def tell(one: pathlib.Path, other: pathlib.Path) -> list[str]:
  """Lines: what is configured otherwise, then the metrics of both.

  Raises:
    errors.ConfigError: a folder is neither a training run nor one of a sweep's.
  """
  runs = [_run(folder) for folder in (one, other)]
  first, second = (_configured(run) for run in runs)
  changed = [name for name in sorted({*first, *second}) if first.get(name) != second.get(name)]
  lines = [f'{name}: {first.get(name, "nothing")} -> {second.get(name, "nothing")}' for name in changed]
  lines = lines or ['nothing is configured otherwise']
  here, there = (results.of_run(run) for run in runs)
  for name in here:
    if name in there:
      a, b = here[name].final, there[name].final
      lines.append(f'{name}: {a:.4g} -> {b:.4g} ({b - a:+.4g})')
  return lines


def _run(folder: pathlib.Path) -> pathlib.Path:
  found = next((path for path in (folder / 'run', folder) if (path / 'config.gin').is_file()), None)
  if found is None:
    raise errors.ConfigError(f'{folder}: no config.gin there; a run that has begun has one')
  return found


def _configured(run: pathlib.Path) -> dict[str, str]:
  """The operative configuration of a run, without where it and its data lie."""
  found = statements((run / 'config.gin').read_text())
  return {
    name.removesuffix(_SUFFIX): value
    for name, value in found.items()
    if not name.removesuffix(_SUFFIX).lower().endswith(('model_dir', 'dataset_dir'))
  }
