"""Says whether a part of a bundle in the making is good enough to go on with; exit status 3 where it is not.

  python tools/gates.py codec REPORT.json         of v2meow codec report
  python tools/gates.py stage REPORT.json NAME    of v2meow evaluate --dataset
  python tools/gates.py music REPORT.json         of v2meow evaluate --bundle, on films that have music

A codec's tokens are to stay the same under a shift of one sample and a change of sign (more than 0.95 of
them). A stage that predicts sound is to know its first level by at least a nat better than its bigram; every
stage that is given the video is to prefer a crop's own to another moment of the track (interval above 0).
What is made of films is to be as tonal and as pulsed as nine tenths of the music that they have, on average.
A gate that fails is a reason to change the plan, not the gate.
"""

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Iterator

from v2meow_jax import errors, terminal

Gate = tuple[str, float, float, float]  # what, its value, and the two between which it has to lie
STEADY, BELOW_BIGRAM = 0.95, 1.0
FAILED = 3


def of_codec(report: dict) -> Iterator[Gate]:
  """Gates of a codec's report."""
  for name in ('shift of 1 sample', 'polarity'):
    yield f'tokens that stay the same, {name}', report['agreement'][name]['value'], STEADY, math.inf


def of_stage(report: dict, name: str) -> Iterator[Gate]:
  """Gates of a stage in a report on a dataset."""
  stage = report['stages'][name]
  first = min(stage['validation']['levels'], key=int)
  if name != 'pulse':  # which is not given what makes a bigram of sound hard to beat: the sound itself
    loss = stage['validation']['levels'][first]['nats_a_token']['value']
    yield f'nats below the bigram, level {first}', stage['bigram']['levels'][0] - loss, BELOW_BIGRAM, math.inf
  for stream, kinds in stage['conditions'].items():
    if stream.startswith('video/') or (stream == 'all' and len(stage['conditions']) > 1):
      low = kinds['moment']['gain']['interval'][0]
      yield (
        f'nats gained by {stream} over another moment, at least',
        -1.0 if low is None else low,
        0.0,
        math.inf,
      )


def of_music(report: dict) -> Iterator[Gate]:
  """Gates of what was made of films."""
  table = {row['metric']: row for row in report['table']}
  for name in ('tonality', 'pulse'):
    made, told = table[name]['ways']['made']['value'], table[name].get('range')
    if made is None:  # of silence
      yield f'{name} of what was made', -math.inf, 0.0, math.inf
    elif told is None:
      raise errors.DatasetError(f'{name}: there is no range of fewer than four films that have music')
    else:
      yield f'{name} of what was made', made, told['low'], told['high']


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('kind', choices=('codec', 'stage', 'music'))
  parser.add_argument('report', type=pathlib.Path)
  parser.add_argument('name', nargs='?', help='of the stage')
  args = parser.parse_args(argv)
  if (args.kind == 'stage') != bool(args.name):
    parser.error('name a stage for the kind "stage", and nothing for others')
  told = f'{args.report}: it is not the report that is meant; make it anew'
  with errors.translated(errors.DatasetError, told):
    report = json.loads(args.report.read_bytes())
    kinds = {'codec': of_codec, 'stage': lambda told: of_stage(told, args.name), 'music': of_music}
    gates = list(kinds[args.kind](report))
  for what, value, low, high in gates:
    wanted = f'above {low:g}' if high == math.inf else f'between {low:.3f} and {high:.3f}'
    print(f'{"passes" if low < value < high else "FAILS"}: {what}: {value:.3f}, to be {wanted}')
  return 0 if all(low < value < high for _, value, low, high in gates) else FAILED


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
