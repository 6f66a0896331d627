"""`v2meow generate`: music for a video, from a bundle."""

import argparse
import dataclasses
import pathlib
import sys
import time
from typing import Any

from v2meow_jax import cli, errors

LOUDNESS = -16.0  # LUFS, what streaming services play music at


def main(argv: list[str] | None = None) -> int:
  """Writes VIDEO with generated music (.mp4), the music alone (.wav), and a picture of both (.png)."""
  parser = argparse.ArgumentParser(prog='v2meow generate', description=main.__doc__)
  parser.add_argument('video', type=pathlib.Path)
  parser.add_argument('--bundle', type=pathlib.Path, required=True, help='what v2meow export wrote')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('out'), help='folder of the results')
  parser.add_argument('--seed', type=int, default=0, help='same seed, bundle and machine: same bits')
  parser.add_argument('--duration', type=float, help='seconds from the start of the video; all by default')
  for name, kind, text in (
    ('temperature', float, '0: the likeliest token'),
    ('top_k', int, '0: all tokens'),
    ('top_p', float, '1: all tokens'),
    ('overlap', float, 'share of a window carried over from the one before'),
  ):
    parser.add_argument(
      f'--{name}', default='', help=f'{text}; {kind.__name__}, or STAGE={kind.__name__},...'
    )
  parser.add_argument('--loudness', type=float, default=LOUDNESS, help='LUFS of the music')
  args = parser.parse_args(argv)
  if args.duration is not None and args.duration <= 0:
    raise errors.ConfigError(f'--duration: {args.duration:g} s is not a positive time')
  if not 0 <= args.seed < 2**32:
    raise errors.ConfigError(f'--seed: {args.seed} is not between 0 and 2^32 - 1')

  began = time.perf_counter()
  from v2meow_jax import bundle
  from v2meow_jax.generation import picture
  from v2meow_jax.media import audio, loudness, mux, probe

  info = probe.probe(args.video)  # before the model is loaded: the answer to a wrong file should be quick
  if info.video is None:
    raise errors.MediaError(f'{args.video}: there is no video stream in it')
  paths = {suffix: args.out / f'{args.video.stem}.{suffix}' for suffix in ('mp4', 'wav', 'png')}
  if paths['mp4'].exists() and paths['mp4'].samefile(args.video):
    raise errors.ConfigError(f'--out: {paths["mp4"]} is the video itself; name another folder')
  pipeline = bundle.load(args.bundle).pipeline()
  sampling = _sampling(args, {runner.stage.name: runner.sampling for runner in pipeline.stages})
  args.out.mkdir(parents=True, exist_ok=True)
  loaded = time.perf_counter() - began

  def progress(name: str, done: int, total: int) -> None:
    print(f'{name}: window {done} of {total}', file=sys.stderr, flush=True)

  made = pipeline.generate(
    str(args.video), seed=args.seed, duration=args.duration, sampling=sampling, progress=progress
  )
  music = loudness.normalize_loudness(made.audio, made.sample_rate, args.loudness)
  writing = time.perf_counter()
  audio.write_wav(paths['wav'], music, made.sample_rate)
  mux.mux(args.video, music, made.sample_rate, paths['mp4'], len(music) / made.sample_rate)
  streams = [encoder.stream for encoder in pipeline.encoders]
  streams += list(dict.fromkeys(runner.stage.target.stream for runner in pipeline.stages))
  told = dataclasses.replace(made, audio=music)
  picture.draw(paths['png'], told, streams, f'{args.video.name}, seed {args.seed}')
  seconds = {'load': loaded, **made.seconds, 'write': time.perf_counter() - writing}
  for path in paths.values():
    print(path)
  print('  '.join(f'{name} {value:.1f} s' for name, value in seconds.items()))
  print(f'{len(music) / made.sample_rate:.1f} s of music in {time.perf_counter() - began:.1f} s')
  return 0


def _sampling(args: argparse.Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
  """The bundle's sampling by stage, with what the command line changes."""
  chosen = dict(defaults)
  for option, kind in (('temperature', float), ('top_k', int), ('top_p', float), ('overlap', float)):
    for part in filter(None, getattr(args, option).split(',')):
      stage, _, value = part.rpartition('=')
      if stage and stage not in chosen:
        raise errors.ConfigError(f'--{option}: the bundle has no stage {stage!r}; it has {", ".join(chosen)}')
      try:
        number = kind(value)
      except ValueError as error:
        raise errors.ConfigError(f'--{option}: {value!r} is not a number') from error
      for name in [stage] if stage else list(chosen):
        chosen[name] = dataclasses.replace(chosen[name], **{option: number})
  return chosen


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
