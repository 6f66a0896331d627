"""Fits the law of scaling to a sweep over sizes and amounts of data, and draws it: DIR/scaling.png.

python tools/fit_scaling.py DIR [--metric stage/validation/loss]
"""

import argparse
import csv
import pathlib
import sys

import numpy as np

from v2meow_jax import errors, files
from v2meow_jax.sweeps import scaling


def read(folder: pathlib.Path, metric: str) -> np.ndarray:
  """[runs, 4] of parameters, tokens, FLOPs and the final value of a metric, of what is done."""
  path = folder / 'table.csv'
  try:
    with path.open(newline='') as file:
      rows = [row for row in csv.DictReader(file) if row['status'] == 'done']
    names = ('parameters', 'tokens', 'flops', f'{metric}:final')
    return np.array([[float(row[name]) for name in names] for row in rows]).reshape(-1, 4)
  except (OSError, KeyError, ValueError) as error:
    raise errors.ConfigError(f'{path}: no table of a sweep that has {metric} ({error})') from error


def draw(path: pathlib.Path, runs: np.ndarray, law: scaling.Law) -> None:
  """Loss against compute: the runs, the law for each size, and the best loss for each budget."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot

  figure, panel = pyplot.subplots(figsize=(8, 4.5), layout='constrained')
  for number, size in enumerate(np.unique(runs[:, 0])):
    own = runs[runs[:, 0] == size]
    tokens = np.geomspace(own[:, 1].min() / 2, own[:, 1].max() * 2, 50)
    panel.plot(own[:, 2], own[:, 3], 'o', color=f'C{number}', label=f'{size / 1e6:.2f} million parameters')
    # FLOPs a token as they were counted, attention and the prefix among them.
    panel.plot(
      tokens * (own[:, 2] / own[:, 1]).mean(), law(np.full(50, size), tokens), '-', color=f'C{number}'
    )
  panel.set(xscale='log', xlabel='training FLOPs', ylabel='validation loss, nats a token')
  panel.legend()
  with files.replaced_when_done(path) as temporary:
    figure.savefig(temporary, dpi=90, format='png')


def main() -> int:
  """Prints the law and writes the picture."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--metric', default='stage/validation/loss')
  args = parser.parse_args()
  try:
    runs = read(args.folder, args.metric)
    law = scaling.fit(runs[:, 0], runs[:, 1], runs[:, 3])
  except errors.InputError as error:
    print(f'fit_scaling: {error}', file=sys.stderr)
    return 2
  residual = np.abs(np.log(law(runs[:, 0], runs[:, 1]) / runs[:, 3]))
  print(
    f'loss = {law.floor:.3g} + {law.size_factor:.3g} / N^{law.size_exponent:.3g} '
    f'+ {law.data_factor:.3g} / D^{law.data_exponent:.3g}, of {len(runs)} runs; '
    f'off by {residual.mean():.1%} on the average, {residual.max():.1%} at most'
  )
  draw(args.folder / 'scaling.png', runs, law)
  print(args.folder / 'scaling.png')
  return 0


if __name__ == '__main__':
  sys.exit(main())
