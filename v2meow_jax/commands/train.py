"""`v2meow train`: trains a codec or a stage, configured by gin."""

from v2meow_jax import errors, terminal
from v2meow_jax.experiment import configuration, experiment
from v2meow_jax.training import agreement, distributed
from v2meow_jax.training.loop import Interrupted


def main(argv: list[str]) -> int:
  """Trains a codec or a stage.

  Exit status 75: stopped by a signal or by time, saved, can be resumed. 76: another process of the run
  is gone; the last checkpoint can be resumed from.
  """
  parser = configuration.parser('v2meow train', main.__doc__)
  many = parser.add_argument_group('several processes')
  many.add_argument('--multiprocess', action='store_true', help='found by Slurm, GKE, Cloud TPU, MPI')
  many.add_argument('--coordinator_address', help='host:port of process 0')
  many.add_argument('--process_count', type=int, help='processes in all')
  many.add_argument('--process_index', type=int, help='number of this one')
  many.add_argument('--heartbeat_seconds', type=int, default=60, help='silence after which one is lost')
  parser.add_argument(
    '--allow_changes', action='store_true', help='go on with another seed, batch size or dataset'
  )
  args = configuration.parse(parser, argv)
  if args.allow_changes:
    args.bindings.append('train.allow_changes=True')
  liveness = distributed.initialize(
    args.multiprocess,
    args.coordinator_address,
    args.process_count,
    args.process_index,
    args.heartbeat_seconds,
  )

  def work(_) -> int:
    try:
      configuration.load(args)
      with configuration.built():
        experiment.train()  # type: ignore[call-arg] (gin gives the arguments)
    except (errors.InputError, OSError) as error:
      agreement.tell_failure(terminal.first_part(error))
      raise
    except Interrupted as stopped:
      terminal.say(f'v2meow: {terminal.first_part(stopped)}')
      return terminal.AGAIN
    return 0

  if liveness is not None:
    liveness.finish(terminal.run(work, [], terminal.AGAIN))
  return work(None)
