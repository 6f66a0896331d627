"""Names from outside, of files and from manifests: which can be written, and how they are shown."""

import os
import re

from v2meow_jax import errors

LONGEST = 200  # bytes of a file's name, which leaves room for what is put behind it
# Names that Windows keeps for devices, whatever their suffix.
_RESERVED = {'CON', 'PRN', 'AUX', 'NUL', *(f'{kind}{n}' for kind in ('COM', 'LPT') for n in range(1, 10))}
_FORBIDDEN = '/\\:*?"<>|'


def fault(name: str) -> str:
  """Why a name cannot be that of a file on every system; empty where it can."""
  if not name or name.strip() != name:
    return 'is empty, or begins or ends with a space'
  if name.startswith(('.', '-')):
    return f'begins with {name[0]!r}'
  bad = next((c for c in name if c in _FORBIDDEN or not c.isprintable()), None)
  if bad is not None:
    return f'holds {bad!r}'
  if len(name.encode('utf-8', 'surrogateescape')) > LONGEST:
    return f'is longer than {LONGEST} bytes'
  if name.split('.')[0].upper() in _RESERVED:
    return 'is one that Windows keeps for a device'
  return ''


def check(name: str) -> str:
  """The name itself; raises `errors.DatasetError` where it cannot be that of a file."""
  why = fault(name)
  if why:
    raise errors.DatasetError(f'the name {shown(name)!r} {why}, so no file can have it')
  return name


def safe(name: str) -> str:
  """A name that can be that of a file, as near to the one given as can be."""
  kept = ''.join(c if c.isprintable() and c not in _FORBIDDEN else '_' for c in name)
  kept = re.sub(r'^[.\-\s]+', '_', kept).strip()
  encoded = kept.encode()
  if len(encoded) > LONGEST:
    kept = encoded[:LONGEST].decode('utf-8', 'ignore').strip()
  if kept.split('.')[0].upper() in _RESERVED:
    kept = f'_{kept}'
  return kept or '_'


def shown(text: str | os.PathLike) -> str:
  """Text as a terminal or a title may show it: what could act on them stands as an escape."""
  given = os.fsdecode(text) if isinstance(text, bytes | os.PathLike) else text
  return ''.join(c if c.isprintable() or c == '\n' else repr(c)[1:-1] for c in given)
