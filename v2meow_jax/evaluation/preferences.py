"""Which music do people prefer? Scores of pairwise answers: wins with intervals, and Bradley-Terry."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from scipy import optimize, stats

from v2meow_jax import errors


class Answer(msgspec.Struct):
  """One answer; `check` marks an attention check and what is right in it."""

  question: str
  left: str
  right: str
  choice: Literal['left', 'right', 'same']
  check: Literal['', 'left', 'right'] = ''


class Answers(msgspec.Struct):
  """The file that the page makes; `listener` is a random word, `test` the hash of the page's questions."""

  test: str
  listener: str
  answers: list[Answer]


def read(paths: Sequence[pathlib.Path]) -> list[Answers]:
  """Files of answers, of one test.

  Raises:
    errors.DatasetError: one is missing, is none, or belongs to another test.
  """
  found = []
  for path in paths:
    if not path.is_file():
      raise errors.DatasetError(f'{path}: there is no such file of answers')
    with errors.translated(errors.DatasetError, f'{path}: not answers of a listening test'):
      found.append(msgspec.json.decode(path.read_bytes(), type=Answers))
    if found[0].test != found[-1].test:
      raise errors.DatasetError(f'{path}: the answers are of another test than those of {paths[0]}')
  return found


def attentive(answers: Answers) -> bool:
  """Whether every attention check was passed."""
  return all(answer.choice == answer.check for answer in answers.answers if answer.check)


@dataclasses.dataclass(frozen=True)
class Games:
  """Counts over listeners.

  Attributes:
    names: of the systems.
    wins: [i, j], how often i was preferred to j; an answer that both are the same is half a win of each.
  """

  names: list[str]
  wins: np.ndarray

  @classmethod
  def of(cls, answers: Sequence[Answer]) -> 'Games':
    """Of answers without attention checks."""
    names = sorted({name for answer in answers for name in (answer.left, answer.right)})
    wins = np.zeros((len(names), len(names)))
    for answer in answers:
      i, j = names.index(answer.left), names.index(answer.right)
      left = {'left': 1.0, 'right': 0.0, 'same': 0.5}[answer.choice]
      wins[i, j] += left
      wins[j, i] += 1 - left
    return cls(names, wins)


def wilson(wins: float, count: float, level: float = 0.95) -> tuple[float, float]:
  """Interval of a share (Wilson 1927); of half wins as of wins."""
  if count <= 0:
    return float('nan'), float('nan')
  z = float(stats.norm.ppf((1 + level) / 2))
  share = wins / count
  middle = (share + z * z / (2 * count)) / (1 + z * z / count)
  reach = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
  return float(middle - reach), float(middle + reach)


def bradley_terry(wins: np.ndarray, prior: float = 0.1) -> np.ndarray:
  """Strengths [n] of sum 0 with P(i over j) = 1 / (1 + exp(s_j - s_i)) (Bradley and Terry 1952).

  The likeliest ones, every pair that met having `prior` more wins on both sides, so that a system that never
  lost has a strength too.

  Args:
    wins: [i, j], how often i was preferred to j.
    prior: wins added to both sides of each pair that met.
  """
  met = (wins + wins.T) > 0
  counted = wins + prior * met

  def loss(strengths: np.ndarray) -> tuple[float, np.ndarray]:
    apart = strengths[:, None] - strengths[None]
    gradient = -counted / (1 + np.exp(apart))
    nats = float((counted * np.logaddexp(0, -apart)).sum()) + 1e-9 * float(strengths @ strengths)
    return nats, gradient.sum(1) - gradient.sum(0) + 2e-9 * strengths

  found = optimize.minimize(
    loss, np.zeros(len(wins)), jac=True, method='L-BFGS-B', options={'ftol': 1e-14, 'gtol': 1e-9}
  )
  return found.x - found.x.mean()


def score(files: Sequence[Answers], draws: int = 500, seed: int = 0) -> dict[str, Any]:
  """Scores of a test; listeners who failed an attention check are left out.

  Returns:
    `pairs`: by `A over B` the share of wins, its interval (Wilson's), and the answers; `strengths`:
    Bradley-Terry by system with 95% intervals, listeners being drawn with replacement; `wins`: share of all
    its pairs that a system won; `listeners` and `left_out`.

  Raises:
    errors.DatasetError: no listener is left.
  """
  kept = [file for file in files if attentive(file)]
  answers = [[a for a in file.answers if not a.check] for file in kept]
  if not any(answers):
    raise errors.DatasetError(f'of {len(files)} listeners none passed the attention checks and answered')
  games = Games.of([answer for part in answers for answer in part])
  rng, names = np.random.default_rng(seed), games.names
  drawn = []
  for _ in range(draws if len(kept) > 1 else 0):
    part = [a for n in rng.integers(0, len(answers), len(answers)) for a in answers[n]]
    some = Games.of(part)
    row = np.full(len(names), np.nan)
    row[[names.index(name) for name in some.names]] = bradley_terry(some.wins)
    drawn.append(row)
  strengths = bradley_terry(games.wins)
  edges = np.nanquantile(drawn, [0.025, 0.975], axis=0) if drawn else np.full((2, len(names)), np.nan)
  told: dict[str, Any] = {'listeners': len(kept), 'left_out': len(files) - len(kept), 'pairs': {}}
  for i, one in enumerate(names):
    for j, other in enumerate(names):
      count = games.wins[i, j] + games.wins[j, i]
      if i < j and count:
        told['pairs'][f'{one} over {other}'] = _told(
          games.wins[i, j] / count, wilson(games.wins[i, j], count), int(count)
        )
  total = games.wins + games.wins.T
  told['wins'] = {
    name: _told(
      games.wins[i].sum() / total[i].sum(), wilson(games.wins[i].sum(), total[i].sum()), int(total[i].sum())
    )
    for i, name in enumerate(names)
  }
  told['strengths'] = {
    name: _told(strengths[i], (edges[0, i], edges[1, i]), len(kept)) for i, name in enumerate(names)
  }
  return told


def _told(value: float, interval: tuple[float, float], count: int) -> dict[str, Any]:
  edges = [float(edge) if np.isfinite(edge) else None for edge in interval]
  return {'value': float(value), 'interval': edges, 'count': count}
