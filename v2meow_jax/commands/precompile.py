"""`v2meow precompile`: what a training step needs, compiled but not run. T5X's script of that name."""

import dataclasses

import jax

from v2meow_jax.experiment import compilation, configuration, experiment, roofline


def main(argv: list[str]) -> int:
  """Compiles a training step without running it: memory, FLOPs, collectives and shardings of a recipe."""
  parser = configuration.parser('v2meow precompile', main.__doc__)
  parser.add_argument('--topology', help='a TPU slice that need not be there, such as v5e:16x16')
  parser.add_argument('--slices', type=int, default=1, help='slices of that topology')
  args = configuration.parse(parser, argv)
  if args.topology:
    jax.config.update('jax_platforms', 'cpu')  # nothing runs, and libtpu would look for a TPU
    # What is compiled for devices that are not there cannot be read back from a cache.
    jax.config.update('jax_enable_compilation_cache', False)
  devices = compilation.topology_devices(args.topology, args.slices) if args.topology else None

  def look(trainable, batches, partitioner, guard):
    placed = dataclasses.replace(partitioner, devices=devices)
    made = compilation.compile_step(trainable, batches, placed, guard)
    print(made)
    bound = roofline.estimate(made, getattr(trainable.config, 'remat', 'none'))
    if bound is not None:
      print(bound)

  experiment.inspect(args, look)
  return 0
