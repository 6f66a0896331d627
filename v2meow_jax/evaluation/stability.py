"""Does a piece keep its key and its tempo: parts of it against the whole."""

import numpy as np
from jaxtyping import Bool, Float

from v2meow_jax.evaluation import keys

WINDOW = 4.0  # seconds; one begins at every half of another
LAGS = (0.25, 1.5)  # seconds
NEAR = 0.08  # MIREX's tolerance of tempi, as a share
OCTAVES = (1, 2, 1 / 2)


def key(chroma: Float[np.ndarray, 'frames 12'], sounds: Bool[np.ndarray, ' frames'], rate: float) -> float:
  """How far windows agree with the whole piece's key, by MIREX's weights; the mean of those that sound.

  Args:
    chroma: energy of the pitch classes.
    sounds: whether a frame is no silence; of a window that counts, at least half are none.
    rate: of the frames, in Hz.

  Returns:
    0 to 1; NaN where fewer than two windows sound.
  """
  heard = chroma * sounds[:, None]
  whole = keys.key_of(heard.mean(0))
  windows = [part for part in _windows(len(heard), rate) if sounds[part].mean() >= 0.5]
  found = [keys.key_agreement(keys.key_of(heard[part].mean(0)), whole) for part in windows]
  return float(np.mean(found)) if len(found) > 1 else float('nan')


def tempo(flux: Float[np.ndarray, ' frames'], sounds: Bool[np.ndarray, ' frames'], rate: float) -> float:
  """Share of windows whose flux repeats after the whole piece's interval, or after twice or half of it.

  The interval is the lag of the greatest autocorrelation at `LAGS`, the same within `NEAR`. One that is drawn
  at random agrees in a fifth of all windows; of a short piece in more, as each window is part of the whole.

  Args:
    flux: rise of the spectrum from frame to frame.
    sounds, rate: as of `key`.

  Returns:
    0 to 1; NaN where fewer than two windows sound and have any attack.
  """
  heard = flux * sounds
  whole = _interval(heard, rate)
  windows = [part for part in _windows(len(heard), rate) if sounds[part].mean() >= 0.5]
  parts = [_interval(heard[part], rate) for part in windows]
  found = [_same(part, whole) for part in parts if part is not None and whole is not None]
  return float(np.mean(found)) if len(found) > 1 else float('nan')


def _windows(frames: int, rate: float) -> list[slice]:
  size = round(WINDOW * rate)
  return [slice(start, start + size) for start in range(0, frames - size + 1, size // 2)]


def autocorrelation(flux: Float[np.ndarray, ' frames'], rate: float) -> tuple[range, np.ndarray]:
  """(lags in frames, the sum of products of centred flux at each over that of squares), empty without flux.

  Biased: longer lags weigh a little less.
  """
  centred = flux - flux.mean() if len(flux) else flux
  total = float(centred @ centred)
  lags = range(round(LAGS[0] * rate), min(round(LAGS[1] * rate), len(flux) - 1) + 1)
  if total <= 1e-12 or not lags:
    return range(0), np.zeros(0)
  return lags, np.array([centred[lag:] @ centred[: len(centred) - lag] for lag in lags]) / total


def _interval(flux: np.ndarray, rate: float) -> int | None:
  """Frames from beat to beat; None where nothing is struck."""
  lags, found = autocorrelation(flux, rate)
  return lags[int(np.argmax(found))] if len(found) else None


def _same(one: int, other: int) -> bool:
  return any(abs(one - factor * other) <= NEAR * factor * other for factor in OCTAVES)
