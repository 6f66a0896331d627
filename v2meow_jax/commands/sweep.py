"""`v2meow sweep FILE.gin`: many trainings or whole pipelines, to one table and one page."""

import argparse
import fnmatch
import pathlib

from v2meow_jax import errors, names, stopping, terminal
from v2meow_jax.experiment import configuration
from v2meow_jax.sweeps import difference, driving, launchers, plan, table, trials


def main(argv: list[str]) -> int:
  """Runs what is missing of a sweep; `v2meow sweep diff A B` tells how two runs differ.

  Exit status 75: interrupted; the same command goes on. 1: some trials failed.
  """
  if argv[:1] == ['diff']:
    return _diff(argv[1:])
  parser = configuration.parser('v2meow sweep', main.__doc__)
  parser.add_argument('file', help='a gin file, of yours or under gin/sweeps, such as sweeps/positions.gin')
  parser.add_argument('--out', type=terminal.local_path, help="the sweep's folder; sweeps/NAME by default")
  parser.add_argument('--jobs', type=int, help='pieces of work at once; 1 here, 64 on a cluster')
  parser.add_argument('--retries', type=int, default=2, help='further attempts of what fails')
  parser.add_argument('--dry_run', action='store_true', help='runs nothing: size, FLOPs, time')
  parser.add_argument('--slurm', action='store_true', help='as jobs of a cluster; extra `sweep`')
  args = configuration.parse(parser, argv)
  jobs = args.jobs if args.jobs is not None else 64 if args.slurm else 1
  if jobs < 1 or args.retries < 0:
    raise errors.ConfigError('--jobs must be at least 1 and --retries not negative')
  args.gin_file = [args.file, *args.gin_file]
  root = (args.out or pathlib.Path('sweeps', pathlib.Path(args.file).stem)).resolve()
  sweep = driving.read(args)
  found = trials.expand(sweep)
  if args.dry_run:
    print('\n'.join(plan.tell(found, driving.states(found, root), root, plan.speed_here())))
    return 0
  launcher = launchers.Slurm(sweep.slurm) if args.slurm else launchers.Here(jobs)
  title = pathlib.Path(args.file).stem.replace('_', ' ')
  flags = [f'--gin_search_paths={args.gin_search_paths}'] if args.gin_search_paths else []
  with driving.alone(root):
    try:
      results = driving.Driver(sweep, found, root, title, launcher, jobs, args.retries, flags).run()
    except (KeyboardInterrupt, stopping.Stopped):
      terminal.say(f'v2meow: stopped; run the same command to go on. {names.shown(root / "index.html")}')
      return terminal.AGAIN
  print(table.markdown(results))
  print(root / 'index.html')
  for pattern in sweep.metrics:
    if not fnmatch.filter(results.metrics, pattern):
      terminal.say_error(f'no metric is called like {pattern}; see Sweep.metrics')
  failures = [words for row in results.rows for words in row.failures]
  for words in dict.fromkeys(failures):
    terminal.say_error(words)
  return 1 if failures else 0


def _diff(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(prog='v2meow sweep diff', description='How two runs differ.')
  parser.add_argument('one', type=terminal.local_path, help="a run's folder, or that of a trial's step")
  parser.add_argument('other', type=terminal.local_path)
  args = parser.parse_args(argv)
  print('\n'.join(difference.tell(args.one, args.other)))
  return 0
