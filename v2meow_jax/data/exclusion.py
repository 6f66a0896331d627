"""Clips that are left out of training without preparing the dataset again.

A list is JSON lines, each of which names what is left out: `{"id": "film-0003"}` a clip, `{"source": "film"}`
all clips of a source, `{"licence": "CC-BY-NC-4.0"}` all under a licence. It counts as part of the data: a run
that goes on with another list sees other examples.
"""

import hashlib

import numpy as np
from etils import epath
from jaxtyping import Int

from v2meow_jax import errors, manifests
from v2meow_jax.data import order, table


def _read(path: epath.PathLike) -> dict[str, set[str]]:
  """Names by what they name.

  Raises:
    errors.DatasetError: the list is missing or empty, or a line of it is damaged.
  """
  found: dict[str, set[str]] = {'id': set(), 'source': set(), 'licence': set()}
  for line in manifests.read(path, manifests.ExclusionRow):
    given = {} if line.row is None else {name: value for name, value in line.given.items() if value}
    if len(given) != 1:
      reason = line.reason or 'it does not name one of "id", "source" and "licence"'
      # What was to be left out would be trained on.
      raise errors.DatasetError(f'{path}, line {line.number}: {reason}')
    ((kind, name),) = given.items()
    found[kind].add(name)
  return found


def kept(clips: table.ClipTable, path: epath.PathLike) -> Int[np.ndarray, ' clips']:
  """Numbers of the clips of a split that a list does not leave out.

  Raises:
    errors.DatasetError: none is left, or the list is missing or damaged.
  """
  named = _read(path)
  hashes = np.array([order.clip_hash(name) for name in named['id']], np.uint64)
  out = np.isin(clips.columns['hash'], hashes)
  if named['source'] or named['licence']:
    # Only for these the rows themselves are read.
    out |= np.array(
      [clip.source in named['source'] or clip.licence in named['licence'] for clip in clips.all()]
    )
  if out.all():
    raise errors.DatasetError(f'{path}: all {len(out)} clips are left out; there is nothing to read')
  return np.flatnonzero(~out).astype(np.uint32)


def digest(path: epath.PathLike) -> str:
  """Tells a list from any other."""
  return hashlib.sha256(repr(sorted((k, sorted(v)) for k, v in _read(path).items())).encode()).hexdigest()[
    :16
  ]
