"""Clips that are nearly the same, by what they sound or look like, found by sorting and not pair by pair."""

import dataclasses
from collections.abc import Sequence

import numpy as np

import gin
from v2meow_jax.curation.filters import Candidate, Filter
from v2meow_jax.curation.sound import FRAME_RATE

FLAT = 8  # standard deviation of luma, of 255, below which a picture looks like any other


@gin.register
@dataclasses.dataclass(frozen=True)
class Duplicates(Filter):
  """Clips that an earlier one of another source nearly equals.

  Sound is the same where enough landmarks are shared at one distance in time; pictures where enough different
  ones look the same. What occurs in more than `common` clips, such as a station's jingle, tells nothing.

  Attributes:
    sound, pictures: what is compared; either makes a duplicate.
    least_sound: share of the landmarks of the clip that has fewer. The same recording, coded anew and begun
      elsewhere, shares a fifth or more, another one less than a hundredth.
    least_pictures: share of the different pictures of the clip that has fewer.
    drop: whether later clips are left out; otherwise their sources come into one split.
    common: clips.
  """

  sound: bool = True
  pictures: bool = True
  least_sound: float = 0.08
  least_pictures: float = 0.3
  drop: bool = True
  common: int = 50

  @property
  def needs(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
    return ('sound',) * self.sound + ('pictures',) * self.pictures

  def judge(self, candidates: Sequence[Candidate]) -> tuple[list[str], list[tuple[str, str]]]:
    found: list[tuple[int, int, str]] = []
    if self.sound:
      told = alike_in_sound(candidates, self.common, self.least_sound)
      found += [(a, b, f'{share:.0%} of its sound') for a, b, share in told]
    if self.pictures:
      told = alike_in_pictures(candidates, self.common, self.least_pictures)
      found += [(a, b, f'{share:.0%} of its pictures') for a, b, share in told]
    reasons = [''] * len(candidates)
    if not self.drop:
      return reasons, [(candidates[a].source, candidates[b].source) for a, b, _ in found]
    for a, b, what in sorted(found):
      # In order, so that of three that are alike the first stays.
      if not reasons[a] and not reasons[b]:
        reasons[b] = f'{what} is as in {candidates[a].id}'
    return reasons, []


def alike_in_sound(
  candidates: Sequence[Candidate], common: int, least: float, votes: int = 10
) -> list[tuple[int, int, float]]:
  """(earlier, later, share of landmarks) of clips of different sources with the same sound.

  Args:
    candidates: all clips.
    common: hashes in more clips are passed over.
    least: share.
    votes: landmarks at least.
  """
  keys, owners, times = [], [], []
  for number, candidate in enumerate(candidates):
    if candidate.landmarks is not None and len(candidate.landmarks[0]):
      hashes, frames = candidate.landmarks
      keys.append(hashes)
      owners.append(np.full(len(hashes), number))
      times.append(frames - round(candidate.begin * FRAME_RATE))
  if not keys:
    return []
  counts = np.bincount(np.concatenate(owners), minlength=len(candidates))
  a, b, shift = _pairs(
    candidates, np.concatenate(keys), np.concatenate(owners), np.concatenate(times), common
  )
  # Two neighbouring distances are one: times are rounded.
  found: dict[tuple[int, int], int] = {}
  for offset in (0, 1):
    rows, number = np.unique(np.stack([a, b, (shift + offset) // 2], 1), axis=0, return_counts=True)
    for (one, other, _), count in zip(rows.tolist(), number.tolist(), strict=True):
      found[one, other] = max(count, found.get((one, other), 0))
  shares = {pair: count / min(counts[pair[0]], counts[pair[1]]) for pair, count in found.items()}
  return [
    (*pair, min(float(shares[pair]), 1.0))
    for pair, count in found.items()
    if count >= votes and shares[pair] >= least
  ]


def alike_in_pictures(
  candidates: Sequence[Candidate], common: int, least: float, votes: int = 4
) -> list[tuple[int, int, float]]:
  """As `alike_in_sound`, by halves of the hashes of pictures, whatever their order."""
  keys, owners = [], []
  for number, candidate in enumerate(candidates):
    if candidate.looks is not None:
      hashes, contrasts, _ = candidate.looks
      hashes = np.unique(hashes[contrasts >= FLAT])
      # Either half may survive a coding that changes a bit of the other.
      halves = np.unique(np.concatenate([hashes >> np.uint64(32), (hashes & np.uint64(2**32 - 1)) | _LOWER]))
      keys.append(halves)
      owners.append(np.full(len(halves), number))
  if not keys:
    return []
  counts = np.bincount(np.concatenate(owners), minlength=len(candidates))
  joined = np.concatenate(keys)
  a, b, _ = _pairs(candidates, joined, np.concatenate(owners), np.zeros(len(joined), np.int64), common)
  rows, number = np.unique(np.stack([a, b], 1), axis=0, return_counts=True)
  return [
    (one, other, share)
    for (one, other), count in zip(rows.tolist(), number.tolist(), strict=True)
    if count >= votes and (share := count / min(counts[one], counts[other])) >= least
  ]


_LOWER = np.uint64(2**40)  # marks lower halves


def _pairs(
  candidates: Sequence[Candidate], keys: np.ndarray, owners: np.ndarray, times: np.ndarray, common: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(earlier, later, later's time minus earlier's) of all that share a key and not a source."""
  order = np.lexsort((owners, keys))
  keys, owners, times = keys[order], owners[order], times[order].astype(np.int64)
  names = {source: n for n, source in enumerate({candidate.source for candidate in candidates})}
  source = np.array([names[candidate.source] for candidate in candidates])[owners]
  run = np.concatenate([[0], np.cumsum(keys[1:] != keys[:-1])])
  rare = (np.bincount(run) <= common)[run]
  keys, owners, times, source = (values[rare] for values in (keys, owners, times, source))
  found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
  for step in range(1, common):
    same = np.flatnonzero(keys[:-step] == keys[step:]) if len(keys) > step else np.zeros(0, np.int64)
    if not len(same):
      break
    same = same[source[same] != source[same + step]]
    found.append((owners[same], owners[same + step], times[same + step] - times[same]))
  if not found:
    none = np.zeros(0, np.int64)
    return none, none, none
  a, b, shift = (np.concatenate(part) for part in zip(*found, strict=True))
  return a, b, shift
