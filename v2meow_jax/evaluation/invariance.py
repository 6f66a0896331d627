"""Does a codec say the same of what sounds the same? Tokens under shifts, gain and polarity."""

from collections.abc import Callable, Mapping

import numpy as np

from v2meow_jax.codec.codec import Codec
from v2meow_jax.evaluation import bootstrap

# Frames at either end whose surroundings differ between the two versions.
EDGE = 4


def changes(hop: int) -> dict[str, tuple[int, int, float]]:
  """By name: (samples by which the sound is moved, frames by which its codes then should be, gain)."""
  return {
    'shift of 1 sample': (1, 0, 1.0),
    'shift of 1/4 frame': (hop // 4, 0, 1.0),
    'shift of 1/2 frame': (hop // 2, 0, 1.0),
    'shift of 1 frame': (hop, 1, 1.0),
    'gain of -3 dB': (0, 0, 10 ** (-3 / 20)),
    'gain of -12 dB': (0, 0, 10 ** (-12 / 20)),
    'polarity': (0, 0, -1.0),
  }


def agreement(
  codec: Codec,
  clips: Mapping[str, np.ndarray],
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict]:
  """Share of codes that stay the same when the sound is changed in ways that are hardly or not heard.

  A shift within a frame, a gain or a change of polarity leaves music what it is; a codec that then writes
  other codes makes the language model learn each piece many times. `by chance` is the share of codes that
  agree with those of another frame, drawn at random from all clips: what agreement is worth nothing.

  Args:
    codec: which.
    clips: audio at its rate, [samples, channels], by name; those of fewer than 12 frames are left out.
    progress: told how many of the clips are done.

  Returns:
    By change: an `Estimate.told` of the share over all levels, resampled by clip, and `levels`, the share by
    codebook level.
  """
  hop, kinds = codec.hop, changes(codec.hop)
  shares: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
  weights, every = [], []
  for number, sound in enumerate(clips.values(), 1):
    frames = len(sound) // hop - 1
    if frames >= 12:
      length = frames * hop
      plain = codec.encode(sound[:length])
      for name, (samples, moved, gain) in kinds.items():
        other = codec.encode(np.float32(gain) * sound[samples : samples + length])
        first = plain[EDGE + moved : frames - EDGE]
        shares[name].append(np.mean(first == other[EDGE : EDGE + len(first)], 0))
      weights.append(frames)
      every.append(plain)
    progress(number, len(clips))
  if not every:
    return {}
  joined = np.concatenate(every)
  found = {name: _told(np.stack(rows), np.array(weights, float)) for name, rows in shares.items()}
  levels = [float(np.sum(np.square(np.bincount(joined[:, k]) / len(joined)))) for k in range(joined.shape[1])]
  found['by chance'] = {'value': float(np.mean(levels)), 'interval': [None, None], 'count': len(every)}
  found['by chance'] |= {'unit': 'share', 'levels': levels}
  return found


def _told(rows: np.ndarray, weights: np.ndarray) -> dict:
  levels = np.average(rows, 0, weights)
  estimate = bootstrap.mean(rows.mean(1), weights=weights, unit='share', better='higher')
  return estimate.told() | {'levels': levels.tolist()}
