"""Which split a source is in: as its rows say, or by a hash; what shares a key is not torn apart."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from v2meow_jax import errors
from v2meow_jax.data import order


class _Joined:
  """Sets of names, joined pair by pair."""

  def __init__(self):
    self._above: dict[Any, Any] = {}

  def find(self, name: Any) -> Any:
    """What stands for the set of a name."""
    above = self._above.setdefault(name, name)
    while above != self._above[above]:
      self._above[above] = self._above[self._above[above]]
      above = self._above[above]
    self._above[name] = above
    return above

  def join(self, one: Any, other: Any) -> None:
    """Makes one set of two."""
    self._above[self.find(other)] = self.find(one)


def _values(row: Mapping[str, Any], key: str) -> list[str]:
  """What a row says of a key: a value, or a list of them."""
  told = row.get(key)
  told = told if isinstance(told, list | tuple) else [told]
  return [str(value) for value in told if value not in (None, '')]


def groups(
  rows: Sequence[Mapping[str, Any]], keys: Iterable[str] = (), together: Iterable[tuple[str, str]] = ()
) -> dict[str, str]:
  """The group of each source: sources that share a value of any key are in one, named after its first.

  Args:
    rows: with `source` and the keys, whose values may be lists; a row without a key shares it with none.
    keys: of the manifest, such as `artist`.
    together: pairs of sources that belong together for another reason.
  """
  joined = _Joined()
  for row in rows:
    joined.find(('source', row['source']))
    for key in keys:
      for value in _values(row, key):
        joined.join(('source', row['source']), (key, value))
  for one, other in together:
    joined.join(('source', one), ('source', other))
  first: dict[Any, str] = {}
  for source in sorted({row['source'] for row in rows}):
    first.setdefault(joined.find(('source', source)), source)
  return {row['source']: first[joined.find(('source', row['source']))] for row in rows}


def assign(
  rows: Sequence[Mapping[str, Any]],
  validation_share: float,
  keys: Iterable[str] = (),
  together: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
  """Split of each source: as the rows say, or by a hash of the name of its group.

  With a positive share and several groups at least one is in each split.

  Raises:
    errors.DatasetError: rows of one group name different splits.
  """
  group_of = groups(rows, keys, together)
  given: dict[str, tuple[str, str]] = {}  # by group: split, and the source that says so
  for row in rows:
    if row.get('split'):
      split, source = given.setdefault(group_of[row['source']], (row['split'], row['source']))
      if split != row['split']:
        raise errors.DatasetError(
          f'the manifest: source {row["source"]!r} is in {row["split"]} and {source!r} in {split}, yet they '
          'share a key or sound; give them one split'
        )
  free = sorted(set(group_of.values()) - given.keys(), key=order.clip_hash)
  below = int(validation_share * 2**64)
  chosen = {group: 'validation' if order.clip_hash(group) < below else 'train' for group in free}
  if free and not given:
    if validation_share > 0 and len(free) > 1:
      chosen[free[0]] = 'validation'
    chosen[free[-1]] = 'train'
  chosen |= {group: split for group, (split, _) in given.items()}
  return {source: chosen[group] for source, group in group_of.items()}
