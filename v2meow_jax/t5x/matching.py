"""Which array of a checkpoint becomes which of ours: by name, by rules, with a report of it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from v2meow_jax import errors

Rules = Sequence[tuple[str, str | None]]
_SHOWN = 20  # names of a kind; there may be thousands


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of every array.

  Attributes:
    matched: our name -> the checkpoint's.
    new: ours that a rule, or the checkpoint's network, leaves as they are made.
    missing: our name -> the checkpoint's that is not there.
    misshapen: our name -> why the checkpoint's does not fit.
    left: of the checkpoint, and used for nothing.
  """

  matched: Mapping[str, str]
  new: tuple[str, ...] = ()
  missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
  misshapen: Mapping[str, str] = dataclasses.field(default_factory=dict)
  left: tuple[str, ...] = ()

  @property
  def whole(self) -> bool:
    """Whether every one of ours is from the checkpoint, by its own name."""
    renamed = any(ours != theirs for ours, theirs in self.matched.items())
    return not (renamed or self.new or self.missing or self.misshapen)

  def lines(self) -> list[str]:
    """For people."""
    told = [f'{len(self.matched)} arrays matched']
    renamed = [f'{ours} from {theirs}' for ours, theirs in self.matched.items() if ours != theirs]
    told += _listed('by another name', renamed)
    told += _listed('new', self.new)
    told += _listed('not in the checkpoint', [f'{theirs} for {o}' for o, theirs in self.missing.items()])
    told += _listed('of another shape', [f'{ours}: {why}' for ours, why in self.misshapen.items()])
    return told + _listed('left', self.left)


def _listed(kind: str, names: Sequence[str]) -> list[str]:
  shown = [f'  {name}' for name in names[:_SHOWN]]
  more = [f'  and {len(names) - _SHOWN} more'] if len(names) > _SHOWN else []
  return [f'{len(names)} {kind}:', *shown, *more] if names else []


def parse_rules(texts: Sequence[str]) -> Rules:
  """Rules written `PATTERN=NAME`, or `PATTERN=` for an array that is to be new.

  Raises:
    errors.ConfigError: a rule that is none.
  """
  rules = []
  for text in texts:
    pattern, sign, name = text.partition('=')
    try:
      re.sub(pattern, name, '')  # the pattern is one, and has the groups that the name refers to
    except (re.error, IndexError) as error:
      raise errors.ConfigError(f'--rule {text!r}: {error}') from error
    if not sign:
      raise errors.ConfigError(f'--rule {text!r}: a rule reads PATTERN=NAME, or PATTERN= for a new array')
    rules.append((pattern, name or None))
  return rules


def match(
  ours: Mapping[str, Any], theirs: Mapping[str, Any], rules: Rules = (), partial: bool = False
) -> Report:
  """Which of `theirs` each of `ours` is taken from, as T5X's `apply_assignment_map` decides it.

  Args:
    ours: arrays or shapes by name.
    theirs: the same of the checkpoint.
    rules: pairs of a pattern for the whole of our name, and the checkpoint's name, in which `\\\\1` is the
      pattern's first group, or None for a new one. The first that matches counts.
    partial: whether arrays that are missing or of another shape are left as they are made.

  Raises:
    errors.BundleError: one is missing or of another shape, or nothing matches at all.
    errors.ConfigError: a rule matches nothing.
  """
  matched, new, missing, misshapen, used = {}, [], {}, {}, set()
  for name, value in ours.items():
    source: str | None = name
    for number, (pattern, replacement) in enumerate(rules):
      if found := re.fullmatch(pattern, name):
        used.add(number)
        source = None if replacement is None else found.expand(replacement)
        break
    if source is None:
      new.append(name)
    elif source not in theirs:
      missing[name] = source
    elif tuple(theirs[source].shape) != tuple(value.shape):
      misshapen[name] = f'{tuple(theirs[source].shape)} in the checkpoint, {tuple(value.shape)} here'
    else:
      matched[name] = source
  idle = [rules[number][0] for number in range(len(rules)) if number not in used]
  if idle:
    raise errors.ConfigError(f'--rule {idle[0]}=: no array of this stage has such a name')
  way = 'add --rule PATTERN=NAME (PATTERN= for a new array), or --partial to make what does not fit anew'
  if missing and not partial:
    name, source = next(iter(missing.items()))
    more = f' (and {len(missing) - 1} more)' if len(missing) > 1 else ''
    raise errors.BundleError(f'there is no {source} for our {name}{more}; {way}')
  if misshapen and not partial:
    name, why = next(iter(misshapen.items()))
    more = f' (and {len(misshapen) - 1} more)' if len(misshapen) > 1 else ''
    raise errors.BundleError(f'{name} is {why}{more}; {way}')
  if not matched:
    raise errors.BundleError('no array of this stage is in it')
  left = tuple(sorted(set(theirs) - set(matched.values())))
  return Report(matched, tuple(new), missing, misshapen, left)
