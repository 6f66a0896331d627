"""`v2meow plan`: what a training step needs, estimated."""

import jax

from v2meow_jax.experiment import configuration, experiment, planning


def main(argv: list[str]) -> int:
  """Estimates memory and time of a recipe without compiling it; `v2meow precompile` asks the compiler."""
  parser = configuration.parser('v2meow plan', main.__doc__)
  parser.add_argument('--topology', required=True, help='kind and number of devices: v5e:16x16, H100:8')
  args = configuration.parse(parser, argv)
  kind, devices = planning.parse_topology(args.topology)
  jax.config.update('jax_platforms', 'cpu')  # nothing runs

  def look(trainable, batches, partitioner, guard):
    print(planning.estimate(trainable, batches, partitioner, guard, kind, devices))

  experiment.inspect(args, look)
  return 0
