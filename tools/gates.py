"""Says whether a part of a bundle in the making is good enough to go on with; exit status 3 where it is not.

  python tools/gates.py codec REPORT.json         of v2meow codec report
  python tools/gates.py stage REPORT.json NAME    of v2meow evaluate --dataset

A codec's tokens are to stay the same under a shift of one sample and a change of sign (more than 0.95 of
them). A stage that predicts sound is to know its first level by at least a nat better than its bigram; every
stage that is given the video is to prefer a crop's own to another moment of the track (interval above 0). A
gate that fails is a reason to change the plan, not the gate.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator

from v2meow_jax import errors, terminal

Gate = tuple[str, float, float]  # what, its value, and what it has to be above
STEADY, BELOW_BIGRAM = 0.95, 1.0
FAILED = 3


def of_codec(report: dict) -> Iterator[Gate]:
  """Gates of a codec's report."""
  for name in ('shift of 1 sample', 'polarity'):
    yield f'tokens that stay the same, {name}', report['agreement'][name]['value'], STEADY


def of_stage(report: dict, name: str) -> Iterator[Gate]:
  """Gates of a stage in a report on a dataset."""
  stage = report['stages'][name]
  first = min(stage['validation']['levels'], key=int)
  if name != 'pulse':  # which is not given what makes a bigram of sound hard to beat: the sound itself
    loss = stage['validation']['levels'][first]['nats_a_token']['value']
    yield f'nats below the bigram, level {first}', stage['bigram']['levels'][0] - loss, BELOW_BIGRAM
  for stream, kinds in stage['conditions'].items():
    if stream.startswith('video/') or (stream == 'all' and len(stage['conditions']) > 1):
      low = kinds['moment']['gain']['interval'][0]
      yield f'nats gained by {stream} over another moment, at least', -1.0 if low is None else low, 0.0


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('kind', choices=('codec', 'stage'))
  parser.add_argument('report', type=pathlib.Path)
  parser.add_argument('name', nargs='?', help='of the stage')
  args = parser.parse_args(argv)
  if (args.kind == 'stage') != bool(args.name):
    parser.error('name a stage for the kind "stage", and nothing for "codec"')
  told = f'{args.report}: it is not the report that is meant; make it anew'
  with errors.translated(errors.DatasetError, told):
    report = json.loads(args.report.read_bytes())
    gates = list(of_codec(report) if args.kind == 'codec' else of_stage(report, args.name))
  for what, value, least in gates:
    print(f'{"passes" if value > least else "FAILS"}: {what}: {value:.3f}, to be above {least:g}')
  return 0 if all(value > least for _, value, least in gates) else FAILED


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
