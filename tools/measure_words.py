"""What words of a prompt do to music: pieces with a word, with another and with none, told apart by ear.

    python tools/measure_words.py --bundle=data/bach --scores=SCORES/manifest.jsonl [FILM ...] --json=FILE

The ear is a logistic regression (scikit-learn, which librosa brings) for each attribute on what evaluation
hears of ten seconds, fitted on true music whose words are known (`tools/make_music.py scores`) and scored on
compositions that were held out: `true` is the share of those that it tells right, and no verdict on generated
music is better than that. Major and minor are told by the profile of pitch classes. Without FILM there is no
video.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from v2meow_jax import errors, terminal, workers
from v2meow_jax.data import performances
from v2meow_jax.evaluation import bootstrap, features, keys
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.media import audio as audio_files

SECONDS = 10.0
FIGURES = ('tonality', 'pulse', 'tempo', 'bandwidth')
ATTRIBUTES = {
  'ensemble': tuple(performances.ENSEMBLES),
  'mood': ('calm', 'lively'),
  'speed': ('slow', 'fast'),
  'shade': ('dark', 'bright'),
  'key': ('major', 'minor'),
}


def heard(sound: np.ndarray, rate: int) -> tuple[np.ndarray, str]:
  """(what the ear is given, the mode of the key)."""
  found = features.hear(sound, rate)
  key = keys.key_of(found.chroma)
  figures = [np.nan_to_num(found.figures[name]) for name in FIGURES]
  return np.concatenate([found.vectors.mean(0), figures]), 'major' if key is None or key[1] else 'minor'


def true_piece(row: Mapping[str, str]) -> tuple[np.ndarray, str, dict[str, str], bool]:
  """(what is heard, mode, true words, held out) of ten seconds in the middle of a rendered piece."""
  words = performances.read_truth(row['events']).words
  info = audio_files.load_audio(row['audio'], features.RATE, 1)[0]
  middle = max(0, len(info) // 2 - round(SECONDS / 2 * features.RATE))
  vector, mode = heard(info[middle : middle + round(SECONDS * features.RATE)], features.RATE)
  return vector, mode, words | {'key': words['key'].rpartition(' ')[2]}, row['split'] == 'validation'


class Ear:
  """Tells the word of an attribute from what is heard."""

  def __init__(self, pieces: list, attribute: str):
    self.attribute, self.words = attribute, ATTRIBUTES[attribute]
    known = [piece for piece in pieces if piece[2][attribute] in self.words]
    train = [piece for piece in known if not piece[3]]
    model = LogisticRegression(C=0.1, max_iter=2000, class_weight='balanced')
    self._model = make_pipeline(StandardScaler(), model)
    if attribute != 'key':
      self._model.fit([piece[0] for piece in train], [piece[2][attribute] for piece in train])
    held_out = [piece for piece in known if piece[3]]
    told = np.array(self.tell([piece[:2] for piece in held_out]))
    true = np.array([piece[2][attribute] for piece in held_out])
    self.right = {word: float(np.mean(told[true == word] == word)) for word in self.words}

  def tell(self, pieces: list[tuple[np.ndarray, str]]) -> list[str]:
    """A word for each."""
    if self.attribute == 'key':
      return [mode for _, mode in pieces]
    return list(self._model.predict([vector for vector, _ in pieces]))


def made(
  pipeline: Pipeline, films: list, prompt: str | None, count: int, at_once: int, scale: float | None
) -> Iterator:
  """What is heard of `count` pieces for a prompt."""
  sampling = pipeline.sampling
  if scale is not None:
    sampling = {
      stage: dataclasses.replace(drawn, guidance=tuple((dict(drawn.guidance) | {'style': scale}).items()))
      for stage, drawn in sampling.items()
    }
  asked = [
    Request(films[n % len(films)] if films else None, prompt, seed=n, duration=SECONDS) for n in range(count)
  ]
  for first in range(0, count, at_once):
    for piece in pipeline.generate_batch(asked[first : first + at_once], sampling=sampling):
      yield heard(piece.audio, piece.sample_rate)


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('films', nargs='*', metavar='FILM')
  parser.add_argument('--bundle', default='data/bach')
  parser.add_argument('--scores', required=True, help='manifest of make_music.py scores')
  parser.add_argument('--pieces', type=int, default=24, help='that are made for each word')
  parser.add_argument('--true', type=int, default=1500, help='true pieces that are heard at most')
  parser.add_argument('--rows', type=int, default=8, help='pieces that are made at once')
  parser.add_argument('--guidance', type=float, help="by the words, in every stage; the bundle's by default")
  parser.add_argument('--workers', type=int, default=2)
  parser.add_argument('--json', type=pathlib.Path)
  args = parser.parse_args(argv)
  manifest = pathlib.Path(args.scores)
  try:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()][: args.true]
  except (OSError, ValueError) as error:
    raise errors.ConfigError(f'{manifest}: no manifest ({error})') from error
  rows = [row | {name: str(manifest.parent / row[name]) for name in ('audio', 'events')} for row in rows]
  with workers.pool(args.workers) as pool, terminal.Progress() as progress:
    pieces = list(progress.track(pool.map(true_piece, rows), len(rows), 'true pieces'))
  pipeline = Pipeline.load(args.bundle, rows=args.rows)
  plain = list(made(pipeline, args.films, None, args.pieces, args.rows, None))
  table = []
  print(f'{"word":<20}{"true":>8}{"with it":>10}{"another":>10}{"none":>8}   with it less another')
  for attribute, words in ATTRIBUTES.items():
    ear = Ear(pieces, attribute)
    prompts = {word: f'in a {word} key' if attribute == 'key' else f'{word} music' for word in words}
    told = {
      word: ear.tell(list(made(pipeline, args.films, prompt, args.pieces, args.rows, args.guidance)))
      for word, prompt in prompts.items()
    }
    none = np.mean([[answer == word for answer in ear.tell(plain)] for word in words], axis=1)
    for word, share in zip(words, none, strict=True):
      own = np.array([answer == word for answer in told[word]], float)
      others = np.mean(
        [[answer == word for answer in told[other]] for other in words if other != word], axis=0
      )
      # The same seeds, and films, with one word and with the others.
      low, high = bootstrap.mean(own - others).interval
      row = {
        'word': word,
        'true': ear.right[word],
        'with': own.mean(),
        'another': others.mean(),
        'none': share,
      }
      table.append({name: value if name == 'word' else float(value) for name, value in row.items()})
      table[-1] |= {'effect': float((own - others).mean()), 'interval': [low, high]}
      print(
        f'{word:<20}{row["true"]:>8.2f}{row["with"]:>10.2f}{row["another"]:>10.2f}{share:>8.2f}'
        f'   {row["with"] - row["another"]:+.2f} [{low:+.2f}, {high:+.2f}]',
        flush=True,
      )
  if args.json:
    args.json.write_text(json.dumps(table, indent=2) + '\n')
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
