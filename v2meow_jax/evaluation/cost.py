"""What a second of audio costs in nats, as tokens: by counts, by pairs and by a small causal model."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Int

from v2meow_jax import errors
from v2meow_jax.evaluation import causal, entropy
from v2meow_jax.streams import Stream


def split(
  clips: Mapping[str, Int[np.ndarray, 'n levels']],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """(clips to learn from, held out): every fourth clip is; of fewer than four the last quarter of each.

  Raises:
    errors.DatasetError: there are not sixteen frames to split.
  """
  rows = [clip for clip in clips.values() if len(clip) >= 16]
  if not rows:
    raise errors.DatasetError('nats a second: no clip has sixteen frames; measure longer ones')
  if len(rows) < 4:
    return [clip[: -len(clip) // 4] for clip in rows], [clip[-(len(clip) // 4) :] for clip in rows]
  return [clip for n, clip in enumerate(rows) if n % 4 != 3], rows[3::4]


def nats_a_second(
  stream: Stream,
  train: list[Int[np.ndarray, 'n levels']],
  held_out: list[Int[np.ndarray, 'n levels']],
  *,
  recipe: causal.Recipe | None = causal.STANDARD,
  seed: int = 0,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
  """Cost of held-out audio in nats a second, each model having learnt from the training clips alone.

  Nats a token do not compare across codecs, as their tokens stand for unlike spans of time; nats a second do,
  for the same audio at the same quality. `uniform` is the bit rate in nats: what tokens cost without a model.
  What a model saves of that is structure that the tokens show to it.

  Args:
    stream: what the tokens are.
    train, held_out: tokens of clips.
    recipe: of the small causal model; None leaves it out.
    seed: of its weights and crops.
    progress: told how many of its steps are done.

  Returns:
    By model `uniform`, `unigram`, `bigram` and `causal`: `nats_a_second`, and `levels`, nats a token by
    level; and `model` (see `causal.levels`), `train_seconds` and `held_out_seconds`.
  """
  codes, rate = stream.codes, float(stream.rate)
  found = {'uniform': np.full(stream.width, np.log(codes))}
  for name, function in (('unigram', entropy.unigram), ('bigram', entropy.bigram)):
    found[name] = entropy.by_level(function, train, held_out, codes)
  about = {}
  if recipe is not None:
    found['causal'], about['model'] = causal.levels(stream, train, held_out, recipe, seed, progress)
  told = {
    name: {'nats_a_second': rate * float(values.sum()), 'levels': values.tolist()}
    for name, values in found.items()
  }
  seconds = {
    f'{name}_seconds': sum(map(len, part)) / rate for name, part in (('train', train), ('held_out', held_out))
  }
  return told | about | seconds
