"""Hours of media a core-hour that `v2meow prepare` makes, by encoder and together, as JSON.

python tools/bench_prepare.py --media=data/demo/big_buck_bunny.mp4 --bundle=data/tiny --clips=8
python tools/bench_prepare.py --media=film.mp4 --gin_file=encoders/clip.gin --gin.CLIP='"FOLDER"'

CPU time of this process is counted, not the clock: the machine may be shared. Compilation is left out, for it
is kept between runs; so is the start of Python.
"""

import argparse
import json
import pathlib
import platform
import sys
import tempfile
import time

import numpy as np

from v2meow_jax import terminal
from v2meow_jax.commands import prepare
from v2meow_jax.data import engines, parts, preparation, table
from v2meow_jax.encoders import base
from v2meow_jax.experiment import configuration
from v2meow_jax.media import probe


def main(argv: list[str]) -> int:
  parser = configuration.parser('bench_prepare', __doc__)
  parser.formatter_class = argparse.RawDescriptionHelpFormatter
  parser.add_argument('--media', type=pathlib.Path, required=True, help='a film with sound')
  parser.add_argument('--bundle', type=terminal.any_path, default='data/tiny')
  parser.add_argument('--streams', default='video/motion,audio/waveform,audio/acoustic,audio/semantic')
  parser.add_argument('--clips', type=int, default=8)
  parser.add_argument(
    '--cluster', help='CORES,PRICE: what 5,000 h cost on so many cores at PRICE a core-hour'
  )
  args, rest = parser.parse_known_args(argv)
  args.bindings = [one.removeprefix('--gin.') for one in rest if one.startswith('--gin.')]
  for name in ('semantic', 'codec', 'sample_rate', 'clap', 'style', 'captions'):
    setattr(args, name, None)
  encoders = prepare.encoders_of(args, prepare.scopes_of(args))
  parts.require_tensorflow()
  info = probe.probe(args.media)
  seconds = min(60.0, info.video.duration if info.video else info.duration)
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder)
    rows = [
      {'id': str(n), 'video': str(args.media.resolve()), 'source': str(n), 'end': seconds}
      for n in range(args.clips)
    ]
    (out / 'm.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    preparation.make_table(out / 'm.jsonl', out / 'ds', validation_share=0)
    (part,) = parts.parts_of(out / 'ds', args.clips)
    hours = float(table.ClipTable(out / 'ds', 'train').columns['duration'].sum()) / 3600
    found = {
      'media': args.media.name,
      'hours': hours,
      'processor': platform.processor() or platform.machine(),
    }
    if info.video:
      found |= {
        'width': info.video.width,
        'height': info.video.height,
        'frame_rate': float(info.video.frame_rate or 0),
      }
    names = [encoder.stream.name for encoder in encoders]
    for encoder in encoders:
      _seconds(out / 'ds', [encoder], part, hours)  # compiles
    alone = {
      encoder.stream.name: round(_seconds(out / 'ds', [encoder], part, hours), 1) for encoder in encoders
    }
    together = _seconds(out / 'ds', encoders, part, hours)
  found['core_seconds_an_hour'] = alone | {'together': round(together, 1)}
  found['hours_a_core_hour'] = {name: round(3600 / value, 1) for name, value in alone.items()}
  found['hours_a_core_hour']['together'] = round(3600 / together, 1)
  found['streams'] = names
  if args.cluster:
    cores, price = (float(value) for value in args.cluster.split(','))
    core_hours = 5000 * together / 3600
    found['5000_hours'] = {
      'core_hours': round(core_hours), 'cores': cores, 'wall_hours': round(core_hours / cores, 2),
      'price_a_core_hour': price, 'price': round(core_hours * price, 2),
    }  # fmt: skip
  print(json.dumps(found, indent=2))
  return 0


def _seconds(directory: pathlib.Path, encoders: list[base.Encoder], part: parts.Part, hours: float) -> float:
  """Core-seconds an hour of media, the least of two."""
  for encoder in encoders:
    part.path(directory, encoder.stream).parent.mkdir(parents=True, exist_ok=True)
  writer, spent = engines.Writer(directory, encoders), []
  for _ in range(2):
    began = time.process_time()
    _, rejected = writer.make((part, [encoder.stream.name for encoder in encoders]))
    spent.append(time.process_time() - began)
    assert not rejected, rejected
  return float(np.min(spent)) / hours


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
