"""Compiles every full-size recipe for TPU slices that need not be there; prints the table of docs/scale.md.

    python tools/compile_recipes.py [--sizes=small,base,large,large_t5,xl] [--topologies=v5e:16x16]

Needs the extra `tpu`. Beside what the compiler says of memory stands what `v2meow plan` estimates; times are
estimates, too, from the compiler's counts and the data sheets (`experiment.roofline`).
"""

import argparse
import dataclasses
import sys

import jax

import gin
from v2meow_jax import errors
from v2meow_jax.experiment import compilation, configuration, experiment, planning, roofline

RECIPES = {
  'small': 'v2meow_small',
  'base': 'v2meow_base',
  'large': 'v2meow',
  'large_t5': 'v2meow_musiclm',
  'xl': 'v2meow_xl',
}
HARDWARE = {'v5e:16x16': 'v5e_256', 'v5p:2x4x4': 'v5p_64'}
STAGES = ('semantic', 'coarse', 'fine')


def row(size: str, stage: str, topology: str) -> str:
  """A line of the table."""
  gin.clear_config()
  parser = configuration.parser('compile_recipes', None)
  files = (f'recipes/{RECIPES[size]}_{stage}.gin', f'hardware/{HARDWARE[topology]}.gin')
  args = configuration.parse(parser, [f'--gin_file={name}' for name in files])
  found = []

  def look(trainable, batches, partitioner, guard):
    kind, count = planning.parse_topology(topology)
    guess = planning.estimate(trainable, batches, partitioner, guard, kind, count)
    placed = dataclasses.replace(partitioner, devices=compilation.topology_devices(topology))
    try:
      made = compilation.compile_step(trainable, batches, placed, guard)
    except errors.ConfigError as error:
      found.append(f'| {topology} | {size} | {stage} | {guess.total / 2**30:.1f} | {error} |')
      return
    bodies = ', '.join(f'{count} {name}' for name, (count, _) in made.collectives.items())
    bound = roofline.estimate(made, trainable.config.remat)
    told = ' | '.join(
      f'{1e3 * x:.0f}' for x in (bound.products, bound.memory, bound.network, bound.seconds, bound.serial)
    )
    share = f'{bound.utilisation(bound.seconds):.0%}-{bound.utilisation(bound.serial):.0%}'
    found.append(
      f'| {topology} | {size} | {stage} | {made.parameters / 1e6:.0f} M | {guess.total / 2**30:.1f} | '
      f'{made.peak / 2**30:.1f} | {made.model_flops:.2e} | {told} | {share} | {bodies} | {made.seconds:.0f} |'
    )

  experiment.inspect(args, look)
  return found[0]


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', default=','.join(RECIPES))
  parser.add_argument('--stages', default=','.join(STAGES))
  parser.add_argument('--topologies', default=','.join(HARDWARE))
  args = parser.parse_args()
  jax.config.update('jax_platforms', 'cpu')
  print('| slice | size | stage | parameters | plan, GiB | compiler, GiB | FLOPs a step | products, ms | '
        'memory, ms | network, ms | ms a step: at best | nothing overlaps | MFU | collectives | '
        'compiled in, s |')  # fmt: skip
  print('|' + '---|' * 15)
  for topology in args.topologies.split(','):
    for size in args.sizes.split(','):
      for stage in args.stages.split(','):
        print(row(size, stage, topology), flush=True)


if __name__ == '__main__':
  sys.exit(main())
