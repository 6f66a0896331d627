"""How alike a piece is to its truth, or to a text, to networks that were trained to hear."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from v2meow_jax.evaluation import sets
from v2meow_jax.evaluation.measuring import Measured

# Name -> (unit, better, what it says).
LIKENESS = {
  'label_kl': (
    'nats',
    'lower',
    'KL(truth | made) of the label posteriors of both: kinds of sound, nothing of their order',
  ),
  'similarity': (
    '',
    'higher',
    "cosine to the truth's embedding, as MusicLM and V2Meow have it (cycle consistency)",
  ),
  'text_similarity': (
    '',
    'higher',
    "cosine of the music's embedding to that of its prompt, in a joint space",
  ),
}


def to_truth(made: Measured, truth: Measured) -> dict[str, float]:
  """Figures of `LIKENESS` by `NETWORK/FIGURE`; the filter bank, which nothing has trained, has none."""
  found = {
    f'{name}/label_kl': float(sets.kl(made.labels[name][None], theirs[None])[0])
    for name, theirs in truth.labels.items()
  }
  for name, theirs in truth.embeddings.items():
    if name != 'filterbank':
      found[f'{name}/similarity'] = cosine(made.embeddings[name].mean(0), theirs.mean(0))
  return found


def to_text(made: Measured, texts: Mapping[str, Float[np.ndarray, ' width']]) -> dict[str, float]:
  """The same of a text's embeddings, by network."""
  return {
    f'{name}/text_similarity': cosine(made.embeddings[name].mean(0), text) for name, text in texts.items()
  }


def about(names: list[str]) -> dict[str, tuple[str, str, str]]:
  """What `tables.mean_of` has to know of figures by `NETWORK/FIGURE`."""
  return {name: LIKENESS[name.rsplit('/', 1)[-1]] for name in names}


def cosine(one: Float[np.ndarray, ' width'], other: Float[np.ndarray, ' width']) -> float:
  """1 of vectors in one direction; NaN where one is zero."""
  norms = np.linalg.norm(one) * np.linalg.norm(other)
  return float(one @ other / norms) if norms > 0 else float('nan')
