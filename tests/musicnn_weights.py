"""Random weights of musicnn, by the names and of the sizes of its package's checkpoints."""

import numpy as np


def random_weights(seed=0):
  """Arrays by the package's checkpoint names and of its sizes."""
  rng = np.random.default_rng(seed)
  front = [(7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51)]
  kernels = [*front, (7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64)]
  norms = [1, *(kernel[-1] for kernel in kernels), 1506, 200]
  made = {}
  for n, shape in enumerate(kernels):
    name = f'model/conv2d_{n}' if n else 'model/conv2d'
    made[f'{name}/kernel'] = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:3]))
    made[f'{name}/bias'] = 0.1 * rng.standard_normal(shape[-1])
  for n, shape in enumerate([(1506, 200), (200, 50)]):
    name = f'model/dense_{n}' if n else 'model/dense'
    made[f'{name}/kernel'] = rng.standard_normal(shape) / np.sqrt(shape[0])
    made[f'{name}/bias'] = 0.1 * rng.standard_normal(shape[1])
  for n, width in enumerate(norms):
    name = f'model/batch_normalization_{n}' if n else 'model/batch_normalization'
    for part in ('gamma', 'beta', 'moving_mean', 'moving_variance'):
      made[f'{name}/{part}'] = rng.uniform(0.5, 1.5, width)
  return {name: value.astype(np.float32) for name, value in made.items()}
