"""Sampling as a command line words it: `0.9`, `semantic=0.9,coarse=1`, `semantic:video=3`."""

import dataclasses
from collections.abc import Mapping

from v2meow_jax import errors
from v2meow_jax.sampling import Sampling

OPTIONS = (
  ('temperature', float, '0: the likeliest token'),
  ('top_k', int, '0: all tokens'),
  ('top_p', float, '1: all tokens'),
  ('overlap', float, 'share of a window carried over from the one before'),
)


def changed(defaults: Mapping[str, Sampling], told: Mapping[str, str]) -> dict[str, Sampling]:
  """Sampling by stage with what is told changed.

  Args:
    defaults: the bundle's.
    told: by the name in `OPTIONS`, or `guidance`: the option's text.

  Raises:
    errors.ConfigError: a stage that is not there, or something that is no number.
  """
  chosen = dict(defaults)

  def stages_of(option: str, stage: str) -> list[str]:
    if stage and stage not in chosen:
      raise errors.ConfigError(f'--{option}: the bundle has no stage {stage!r}; it has {", ".join(chosen)}')
    return [stage] if stage else list(chosen)

  def number_of(option: str, kind: type, value: str):
    try:
      return kind(value)
    except ValueError as error:
      raise errors.ConfigError(f'--{option}: {value!r} is not a number') from error

  for option, kind, _ in OPTIONS:
    for part in filter(None, told.get(option, '').split(',')):
      stage, _, value = part.rpartition('=')
      for name in stages_of(option, stage):
        chosen[name] = dataclasses.replace(chosen[name], **{option: number_of(option, kind, value)})
  for part in filter(None, told.get('guidance', '').split(',')):
    place, separator, value = part.partition('=')
    stage, _, group = place.rpartition(':')
    if not separator or not group:
      raise errors.ConfigError(f'--guidance: {part!r} is not GROUP=SCALE or STAGE:GROUP=SCALE')
    name = stages_of('guidance', stage)[0]
    scales = dict(chosen[name].guidance) | {group: number_of('guidance', float, value)}
    chosen[name] = dataclasses.replace(chosen[name], guidance=tuple(scales.items()))
  return chosen
