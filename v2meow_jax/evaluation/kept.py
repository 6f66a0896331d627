"""What was measured of a piece, kept on disk, so that it is measured once and a killed evaluation goes on."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from v2meow_jax import files
from v2meow_jax.evaluation.features import Heard

FOLDER = '.evaluation'  # hidden: no command takes it for media


class Kept:
  """A folder of measurements by what they are of; several processes may share it.

  Args:
    folder: made when something is first kept.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder

  def get(self, about: Mapping[str, Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of `about`, as kept, or else made and kept.

    Args:
      about: JSON values that decide what is made: hashes, settings, seeds.
      make: makes them.
    """
    text = json.dumps(about, sort_keys=True).encode()
    path = self.folder / f'{hashlib.sha256(text).hexdigest()[:32]}.npz'
    try:
      with np.load(path) as stored:
        return dict(stored)
    except FileNotFoundError:
      pass
    except Exception:  # damaged in whatever way: it is made again
      path.unlink(missing_ok=True)
    made = make()
    self.folder.mkdir(parents=True, exist_ok=True)
    with files.replaced_when_done(path) as temporary, open(temporary, 'wb') as file:
      np.savez_compressed(file, **made)  # type: ignore[arg-type] (numpy's stub takes a name for a flag)
    return made


def beside(data: pathlib.Path, otherwise: pathlib.Path) -> Kept:
  """Kept beside the data, for every report on it, or elsewhere where that cannot be written."""
  folder = data if data.is_dir() else data.parent
  return Kept(folder / FOLDER if os.access(folder, os.W_OK) else otherwise / 'kept')


def pack(heard: Heard) -> dict[str, np.ndarray]:
  """Arrays of what was heard."""
  arrays = {'beats': heard.beats, 'chroma': heard.chroma, 'vectors': heard.vectors}
  arrays['seconds'] = np.asarray(heard.seconds)
  arrays |= {f'figure/{name}': np.asarray(value) for name, value in heard.figures.items()}
  return arrays | {f'curve/{name}': value for name, value in heard.curves.items()}


def unpack(arrays: Mapping[str, np.ndarray]) -> Heard:
  """What `pack` packed."""

  def part(kind: str) -> dict[str, np.ndarray]:
    return {name.split('/', 1)[1]: value for name, value in arrays.items() if name.startswith(f'{kind}/')}

  figures = {name: float(value) for name, value in part('figure').items()}
  beats, chroma, vectors = (arrays[name] for name in ('beats', 'chroma', 'vectors'))
  return Heard(figures, part('curve'), beats, chroma, vectors, float(arrays['seconds']))
