"""What a token stream costs under a small causal model: a stand-in for the language model that is to come."""

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction

import flax.linen as nn
import jax
import numpy as np
import optax
from jaxtyping import Int

from v2meow_jax import streams
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Stage, Target
from v2meow_jax.streams import Stream


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How the small model is made; the same for every stream, so that streams can be compared.

  Attributes:
    layers, width, heads, mlp: of the Transformer.
    seconds: that it sees at once; the shortest clip's length where that is less.
    batch: crops a step.
    steps: most of them.
    check: steps between two looks at the clips that decide when to stop.
    patience: looks without a gain after which it stops.
    rate: learning rate of AdamW, after a warm-up of `check` steps.
    decay: of the weights.
    dropout: see `TransformerConfig`.
  """

  layers: int = 2
  width: int = 128
  heads: int = 2
  mlp: int = 256
  seconds: float = 4.0
  batch: int = 8
  steps: int = 600
  check: int = 50
  patience: int = 2
  rate: float = 2e-3
  decay: float = 0.1
  dropout: float = 0.1


STANDARD = Recipe()


def levels(
  stream: Stream,
  train: Sequence[Int[np.ndarray, 'n levels']],
  held_out: Sequence[Int[np.ndarray, 'n levels']],
  recipe: Recipe = STANDARD,
  seed: int = 0,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, dict]:
  """Trains a small decoder-only Transformer on tokens and scores others with it.

  Levels are laid out by the delay pattern (Copet et al. 2023), so that a token sees all earlier frames and
  the lower levels of its own: the factorisation is exact, and nats add up. The last tenth of each training
  clip decides when to stop; what is held out decides nothing.

  Args:
    stream: what the tokens are.
    train: clips to learn from.
    held_out: clips to score; each token with at least half a crop before it, but for a clip's beginning.
    recipe: of the model.
    seed: of weights and crops.
    progress: told how many of the steps are done; may end short of all.

  Returns:
    (nats a token by level [levels], `parameters`, `steps` after which it was best and `seconds` it sees).
  """
  shortest = min(map(len, (*train, *held_out)))
  seconds = min(Fraction(recipe.seconds), Fraction(shortest) / stream.rate)
  stage = Stage('small', (), Target(stream, None, 'delay'), seconds)
  config = TransformerConfig(recipe.layers, recipe.width, recipe.heads, recipe.mlp, dropout=recipe.dropout)
  rate = optax.linear_schedule(0.0, recipe.rate, recipe.check)
  trainable = StageTrainable(stage, config, optax.adamw(rate, weight_decay=recipe.decay))
  fitted = [clip[: max(1, len(clip) - len(clip) // 10)] for clip in train]
  # With half a crop before them, which is not counted.
  judged = [clip[max(0, len(part) - stage.frames // 2) :] for clip, part in zip(train, fitted, strict=True)]
  known = [min(len(part), stage.frames // 2) for part in fitted]
  rng, key = np.random.default_rng(seed), jax.random.key(seed)
  state = nn.unbox(trainable.init(key, stage.empty_batch()))
  step, score = jax.jit(trainable.step), jax.jit(trainable.score_batch)
  best, best_step, params, waited = np.inf, 0, state['params'], 0
  for number in range(1, recipe.steps + 1):
    state, _ = step(state, _drawn(stage, fitted, recipe.batch, rng), jax.random.fold_in(key, number))
    progress(number, recipe.steps)
    if number % recipe.check == 0 or number == recipe.steps:
      found = float(np.mean(_scored(stage, score, state['params'], judged, recipe.batch, known)))
      best, best_step, params, waited = (
        (found, number, state['params'], 0) if found < best else (best, best_step, params, waited + 1)
      )
      if waited >= recipe.patience:
        break
  count = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
  about = {'parameters': int(count), 'steps': best_step, 'seconds': float(seconds)}
  return _scored(stage, score, params, held_out, recipe.batch), about


def _crop(stage: Stage, clip: np.ndarray, start: int) -> dict:
  stream = stage.target.stream
  return streams.crop(
    stream, lambda first, stop: clip[first:stop], Fraction(start) / stream.rate, stage.crop_seconds
  )


def _stacked(rows: list[dict]) -> dict:
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _drawn(stage: Stage, clips: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> dict:
  """Crops at random places, clips drawn by their length."""
  lengths = np.array([len(clip) for clip in clips], float)
  chosen = rng.choice(len(clips), count, p=lengths / lengths.sum())
  starts = [int(rng.integers(0, max(1, len(clips[n]) - stage.frames + 1))) for n in chosen]
  return _stacked([_crop(stage, clips[n], start) for n, start in zip(chosen, starts, strict=True)])


def _scored(
  stage: Stage, score, params, clips: Sequence[np.ndarray], batch: int, known: Sequence[int] = ()
) -> np.ndarray:
  """Nats a token by level, over windows that overlap by half: of each but a clip's first the latter half.

  Of each clip the first `known` frames are not counted.
  """
  half = max(1, stage.frames // 2)
  name = f'{stage.target.stream.name}/mask'
  rows = []
  for clip, skipped in zip(clips, known or [0] * len(clips), strict=True):
    for start in range(0, max(1, len(clip) - stage.frames + half), half):
      counted = np.arange(stage.frames) >= max(skipped - start, 0 if start == 0 else stage.frames - half)
      rows.append((_crop(stage, clip, start), counted))
  total, count = np.zeros(stage.target.depth), 0
  for at in range(0, len(rows), batch):
    part = rows[at : at + batch]
    filled = [crop for crop, _ in part] + [part[0][0]] * (batch - len(part))
    found = np.asarray(score(params, _stacked(filled)), np.float64)[: len(part)]
    kept = np.stack([counted & crop[name] for crop, counted in part])
    total -= (found * kept[..., None]).sum((0, 1))
    count += int(kept.sum())
  return total / max(count, 1)
