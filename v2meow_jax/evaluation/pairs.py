"""How far a piece agrees with another piece, or with a video, in time."""

import numpy as np
from jaxtyping import Float

from v2meow_jax.evaluation.features import CURVE_RATE, Heard
from v2meow_jax.evaluation.keys import key_agreement, key_of

Times = Float[np.ndarray, ' n']
BEAT_WINDOW = 0.07  # seconds
CUT_WINDOW = 0.1  # seconds
CUT = 0.5  # distance of colour histograms from which a change of picture is a cut
LAG = 2.0  # seconds to either side


def beat_f(ours: Times, theirs: Times, window: float = BEAT_WINDOW) -> float:
  """F-measure of beats that can be matched one to one within `window` s (Davies et al. 2009); 0 if empty.

  On a line, matching in order as early as possible matches as many as any other way.
  """
  if not len(ours) or not len(theirs):
    return 0.0
  i = j = hits = 0
  while i < len(ours) and j < len(theirs):
    if abs(ours[i] - theirs[j]) <= window:
      hits, i, j = hits + 1, i + 1, j + 1
    elif ours[i] < theirs[j]:
      i += 1
    else:
      j += 1
  return 2 * hits / (len(ours) + len(theirs))


def beat_seconds(ours: Times, theirs: Times, seconds: float) -> tuple[float, float]:
  """(coverage, hit) by bins of 1 s, as papers on music for dance print them (Zhu et al. 2022).

  Coverage: bins of ours with a beat over those of theirs. Hit: share of theirs in which ours has one as well.
  NaN where theirs has no beat.
  """
  bins = max(1, int(np.ceil(seconds)))
  one, other = (np.bincount(np.clip(x.astype(int), 0, bins - 1), minlength=bins) > 0 for x in (ours, theirs))
  if not other.any():
    return float('nan'), float('nan')
  return float(one.sum() / other.sum()), float((one & other).sum() / other.sum())


def tempo_agrees(ours: float, theirs: float, octaves: bool = False) -> float:
  """1 where tempi are within 4%, with `octaves` also by a factor of 2 or 3 (Gouyon et al. 2006)."""
  if not np.isfinite(theirs):
    return float('nan')
  factors = (1, 2, 3, 1 / 2, 1 / 3) if octaves else (1,)
  return float(np.isfinite(ours) and any(abs(ours - f * theirs) <= 0.04 * f * theirs for f in factors))


def correlation(one: Float[np.ndarray, ' n'], other: Float[np.ndarray, ' n']) -> float:
  """Pearson's, of as much as both have; 0 where ours is constant, NaN where theirs is or is too short."""
  n = min(len(one), len(other))
  one, other = np.asarray(one[:n], np.float64), np.asarray(other[:n], np.float64)
  if n < 8 or other.std() < 1e-6:
    return float('nan')
  if one.std() < 1e-6:
    return 0.0
  return float(np.corrcoef(one, other)[0, 1])


def lagged(
  ours: Float[np.ndarray, ' n'], theirs: Float[np.ndarray, ' n'], reach: float = LAG
) -> tuple[np.ndarray, np.ndarray]:
  """(lags in seconds, correlation at each): positive lags mean that ours follows theirs later."""
  most = round(reach * CURVE_RATE)
  lags = np.arange(-most, most + 1)
  found = [
    correlation(ours[max(0, lag) :], theirs[max(0, -lag) :])
    if abs(lag) < min(len(ours), len(theirs))
    else np.nan
    for lag in lags
  ]
  return lags / CURVE_RATE, np.array(found)


def cuts_of(change: Float[np.ndarray, ' n'], rate: float) -> Times:
  """Times in seconds of scene cuts, from the column `cut` of `video/motion` with one frame an element.

  A change is between a picture and the one before it.
  """
  return np.maximum(0, np.flatnonzero(change >= CUT) - 0.5) / rate


def cut_to_beat(cuts: Times, beats: Times, seconds: float, window: float = CUT_WINDOW) -> tuple[float, float]:
  """(share of cuts within `window` s of a beat, the same expected by chance); NaN without cuts.

  Chance is the share of the piece's time that lies within the window of a beat.
  """
  if not len(cuts):
    return float('nan'), float('nan')
  if not len(beats):
    return 0.0, 0.0
  hit = np.abs(cuts[:, None] - beats).min(1) <= window
  low, high = np.maximum(beats - window, 0), np.minimum(beats + window, seconds)
  ends = np.maximum.accumulate(high)
  covered = (high[0] - low[0]) + np.sum(np.maximum(0, high[1:] - np.maximum(low[1:], ends[:-1])))
  return float(hit.mean()), float(covered / seconds)


# Name -> (unit, which way is better, what it says and what not).
AGREEMENT = {
  'beat_f': ('', 'higher', 'beats within 70 ms of the truth\'s; other music can be as good with other beats'),
  'beat_coverage': ('', '', 'seconds with a beat over those of the truth; nearly 1 for all that has a pulse'),
  'beat_hit': ('', 'higher', 'seconds with a beat in both; nearly 1 for all that has a pulse'),
  'tempo_agrees': ('share', 'higher', 'tempo within 4% of the truth\'s'),
  'tempo_agrees_octaves': ('share', 'higher', 'the same, double or half or three times counting as well'),
  'key': ('', 'higher', 'MIREX\'s weighted score against the truth\'s key, by a correlation of profiles'),
  'loudness_curve': ('', 'higher', 'correlation of energy in quarters of a second with the truth\'s'),
  'chroma': ('', 'higher', 'correlation of the mean pitch classes with the truth\'s'),
}  # fmt: skip
FOLLOWING = {
  'motion_energy': ('', 'higher', 'correlation of energy with the picture\'s motion, best lag within 2 s'),
  'motion_energy_at_0': ('', 'higher', 'the same without lag'),
  'motion_lag': ('s', '', 'the best lag; positive: the music comes later'),
  'brightness': ('', 'higher', 'correlation of the spectral centroid with the picture\'s brightness'),
  'cut_to_beat': ('', 'higher', 'share of cuts within 0.1 s of a beat, less what chance gives'),
}  # fmt: skip


def agreement(ours: Heard, theirs: Heard) -> dict[str, float]:
  """Each of `AGREEMENT` between a piece and its truth."""
  coverage, hit = beat_seconds(ours.beats, theirs.beats, theirs.seconds)
  mine, other = ours.figures['tempo'], theirs.figures['tempo']
  return {
    'beat_f': beat_f(ours.beats, theirs.beats) if len(theirs.beats) else float('nan'),
    'beat_coverage': coverage,
    'beat_hit': hit,
    'tempo_agrees': tempo_agrees(mine, other),
    'tempo_agrees_octaves': tempo_agrees(mine, other, octaves=True),
    'key': key_agreement(key_of(ours.chroma), key_of(theirs.chroma)),
    'loudness_curve': correlation(ours.curves['energy'], theirs.curves['energy']),
    'chroma': correlation(ours.chroma, theirs.chroma),
  }


def following(ours: Heard, columns: dict[str, np.ndarray], rate: float) -> dict[str, float]:
  """Each of `FOLLOWING` between a piece and the measurements of a video.

  Args:
    ours: the music.
    columns: `motion`, `brightness` and `cut` at `rate` Hz, a multiple of `CURVE_RATE`.
    rate: of the columns.
  """
  per = round(rate / CURVE_RATE)
  motion, light = (
    columns[name][: len(columns[name]) // per * per].reshape(-1, per).mean(1)
    for name in ('motion', 'brightness')
  )
  lags, found = lagged(ours.curves['energy'], motion)
  best = int(np.nanargmax(found)) if np.isfinite(found).any() else None
  hit, chance = cut_to_beat(cuts_of(columns['cut'], rate), ours.beats, ours.seconds)
  return {
    'motion_energy': float('nan') if best is None else float(found[best]),
    'motion_energy_at_0': float(found[len(found) // 2]),
    # Where nothing goes together there is no lag.
    'motion_lag': float(lags[best]) if best is not None and found[best] > 0 else float('nan'),
    'brightness': correlation(ours.curves['brightness'], light),
    'cut_to_beat': hit - chance,
  }
