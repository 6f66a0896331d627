"""`v2meow inspect`: what is in a dataset."""

import argparse
import dataclasses
import json
import pathlib

import numpy as np

from v2meow_jax import bundles, description, errors, terminal
from v2meow_jax.curation import summary
from v2meow_jax.data import dataset, inspection
from v2meow_jax.encoders import registry
from v2meow_jax.media import audio as audio_files


def main(argv: list[str]) -> int:
  """Tells what is in a dataset and what is broken in it, shows a clip, or how it differs from another.

  Exit status 2 where a shard is broken.
  """
  parser = argparse.ArgumentParser(prog='v2meow inspect', description=main.__doc__)
  parser.add_argument('dataset', type=terminal.any_path)
  wanted = parser.add_mutually_exclusive_group()
  wanted.add_argument('--json', action='store_true', help='as JSON')
  wanted.add_argument('--clip', help='id of a clip: a picture of it is written')
  parser.add_argument('--out', type=terminal.local_path, help="the picture's file, by default CLIP.png")
  parser.add_argument(
    '--listen', type=terminal.any_path, help='a bundle or run: decodes its tokens to CLIP.wav'
  )
  wanted.add_argument('--page', type=terminal.local_path, help='an HTML file with plots and players')
  wanted.add_argument('--compare', type=terminal.any_path, help='another dataset: how they differ')
  args = parser.parse_args(argv)
  if args.compare is not None:
    found = inspection.compare(args.dataset, args.compare)
    print('\n'.join(found) or 'they hold the same')
    return 0
  if args.page is not None:
    summary.write_page(args.dataset, args.page)
    print(args.page)
    return 0
  if args.clip is not None:
    picture = args.out or pathlib.Path(f'{args.clip}.png')
    inspection.picture(args.dataset, args.clip, picture)
    print(picture)
    if args.listen is not None:
      print(_listen(args, picture.with_suffix('.wav')))
    return 0
  if args.listen is not None or args.out is not None:
    raise errors.ConfigError('--listen and --out need --clip')
  found = inspection.summarise(args.dataset)
  if args.json:
    told = dataclasses.asdict(found)
    for name, stream in found.streams.items():
      told['streams'][name]['stream'] = description.describe(stream.stream)
    print(json.dumps(told, indent=2))
  else:
    print('\n'.join(inspection.tell(found)))
  if found.faults:
    told = f'{len(found.faults)} faults; v2meow prepare makes broken shards again'
    raise errors.DatasetError(f'{args.dataset}: {told}')
  return 0


def _listen(args: argparse.Namespace, path: pathlib.Path) -> pathlib.Path:
  """Decodes a clip's tokens."""
  codec = bundles.load_codec(args.listen)
  split, number, _ = inspection.find_clip(args.dataset, args.clip)
  data = dataset.Dataset(args.dataset, split, (codec.stream,))
  if not registry.same(data.identity(codec.stream) or {}, codec.identity):
    raise errors.DatasetError(
      f'{args.dataset}: stream {codec.stream.name} was made by another codec than {args.listen}'
    )
  codes = data.read(codec.stream, number).astype(np.int32)
  if not len(codes):
    raise errors.DatasetError(f'{args.dataset}: clip {args.clip} has no elements of {codec.stream.name}')
  audio_files.write_wav(path, np.asarray(codec.decode(codes[None])[0]), codec.sample_rate)
  return path
