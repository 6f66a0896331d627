"""`v2meow codec`: encodes and decodes files, and reports on how good a codec is."""

import argparse
import json
import pathlib
import sys
import warnings
import zipfile
from collections.abc import Iterator

import numpy as np
import soundfile

from v2meow_jax import bundle, cli, errors, files
from v2meow_jax.codec.codec import Codec
from v2meow_jax.media import audio as audio_files
from v2meow_jax.media import probe

AUDIO_SUFFIXES = ('.wav', '.flac', '.ogg', '.opus', '.mp3', '.m4a', '.mp4', '.mkv', '.webm', '.mov')


def main(argv: list[str] | None = None) -> int:
  """Encodes audio to codes, decodes codes to audio, or reports on a codec."""
  parser = argparse.ArgumentParser(prog='v2meow codec', description=main.__doc__)
  ways = parser.add_subparsers(dest='way', required=True)
  encode = ways.add_parser('encode', help='a media file to codes')
  encode.add_argument('file', type=pathlib.Path)
  encode.add_argument('--out', type=pathlib.Path, help='by default the name of FILE with .npz')
  encode.add_argument('--levels', type=int, help='codebook levels to keep, the first ones; all by default')
  encode.add_argument(
    '--strict', action='store_true', help='refuse another sample rate or number of channels'
  )
  decode = ways.add_parser('decode', help='codes to a WAV file')
  decode.add_argument('file', type=pathlib.Path)
  decode.add_argument('--out', type=pathlib.Path, help='by default the name of FILE with .wav')
  decode.add_argument('--bfloat16', action='store_true', help='where it is good enough for this codec')
  report = ways.add_parser('report', help='a page that says whether a codec is trained')
  report.add_argument('--audio', type=pathlib.Path, required=True, help='a folder of media files, or one')
  report.add_argument('--out', type=pathlib.Path, default=pathlib.Path('codec_report'), help='a folder')
  report.add_argument('--clips', type=int, default=8, help='most files that are measured')
  report.add_argument('--seconds', type=float, default=10.0, help='of each, from its middle')
  for way in (encode, decode, report):
    way.add_argument('--bundle', type=pathlib.Path, required=True, help="a bundle or a codec's run")
  args = parser.parse_args(sys.argv[1:] if argv is None else argv)
  codec = bundle.load_codec(args.bundle)
  {'encode': encode_file, 'decode': decode_file, 'report': report_on}[args.way](codec, args)
  return 0


def _blocks(codec: Codec, path: pathlib.Path, heard: list[float]) -> Iterator[np.ndarray]:
  """The file's audio in blocks as the codec takes it; adds each one's peak to `heard`."""
  seconds = codec.block * codec.hop / codec.sample_rate
  n = 0
  while True:
    try:
      sound, _ = audio_files.load_audio(path, codec.sample_rate, codec.channels, n * seconds, seconds)
    except errors.MediaError:
      if n:  # the file ended with the block before
        return
      raise
    if not np.isfinite(sound).all():
      raise errors.MediaError(f'{path}: its audio holds values that are not finite; repair the file')
    heard.append(float(np.abs(sound).max()))
    yield sound[None]
    if len(sound) < codec.block * codec.hop:
      return
    n += 1


def encode_file(codec: Codec, args: argparse.Namespace) -> None:
  """Writes codes, what is needed to decode them, and whose they are."""
  if args.levels is not None and not 1 <= args.levels <= codec.stream.width:
    raise errors.ConfigError(f'--levels={args.levels}: the codec has 1 to {codec.stream.width}')
  with probe.open_media(args.file) as container:
    native = probe.audio_stream(container, args.file)
    found = native.sample_rate, native.channels
  wanted = codec.sample_rate, codec.channels
  if found != wanted:
    told = f'{args.file}: {found[0]} Hz, {found[1]} channel(s); the codec takes {wanted[0]} Hz, {wanted[1]}'
    if args.strict:
      raise errors.MediaError(f'{told}; convert it, or leave out --strict')
    warnings.warn(f'{told}, so it is converted', stacklevel=1)
  heard: list[float] = []
  samples = 0

  def counted() -> Iterator[np.ndarray]:
    nonlocal samples
    for block in _blocks(codec, args.file, heard):
      samples += block.shape[1]
      yield block

  codes = np.concatenate([block[0] for block in codec.encode_blocks(counted())])[:, : args.levels]
  if max(heard) == 0:
    raise errors.MediaError(
      f'{args.file}: its audio is silent from beginning to end; there is nothing to encode'
    )
  out = args.out or args.file.with_suffix('.npz')
  about = {'identity': codec.identity, 'sample_rate': codec.sample_rate, 'samples': samples}
  with files.replaced_when_done(out) as temporary, open(temporary, 'wb') as file:
    np.savez_compressed(file, codes=codes.astype(np.uint16), about=json.dumps(about))
  rate = float(codec.stream.rate) * codes.shape[1] * np.log2(codec.stream.codes)
  print(f'{out}: {samples / codec.sample_rate:.1f} s, {codes.shape[1]} levels, {rate / 1000:.2f} kbit/s')


def decode_file(codec: Codec, args: argparse.Namespace) -> None:
  """Writes the audio of codes that this codec made."""
  try:
    with np.load(args.file, allow_pickle=False) as stored:
      codes, about = stored['codes'].astype(np.int32), json.loads(str(stored['about']))
      identity, samples = about['identity'], int(about['samples'])
  except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
    if isinstance(error, FileNotFoundError):
      raise
    raise errors.DatasetError(
      f'{args.file}: not codes as v2meow codec encode writes them ({error})'
    ) from error
  if identity != json.loads(json.dumps(codec.identity)):
    raise errors.DatasetError(f'{args.file}: these codes were made by another codec than {args.bundle}')
  try:
    codec.check_codes(codes)
  except ValueError as error:
    raise errors.DatasetError(f'{args.file}: damaged: {error}') from error
  if args.bfloat16:
    codec = _narrowed(codec, codes)
  out, left = args.out or args.file.with_suffix('.wav'), samples
  blocks = (codes[None, at : at + codec.block] for at in range(0, len(codes), codec.block))
  with (
    files.replaced_when_done(out) as temporary,
    soundfile.SoundFile(temporary, 'w', codec.sample_rate, codec.channels, 'PCM_16', format='WAV') as file,
  ):
    for audio in codec.decode_blocks(blocks):
      file.write(np.clip(audio[0, :left], -1, 1))
      left -= min(left, audio.shape[1])
    file.write(np.zeros((left, codec.channels), np.float32))  # what odd strides leave out
  print(f'{out}: {samples / codec.sample_rate:.1f} s at {codec.sample_rate} Hz')


def _narrowed(codec: Codec, codes: np.ndarray) -> Codec:
  """The codec in bfloat16, if that is near enough on the first seconds of these codes."""
  from v2meow_jax.evaluation import codec_report

  ratio = codec_report.bfloat16_quality(codec, codes[: codec.block])
  if ratio <= codec_report.BFLOAT16_LIMIT:
    raise errors.ConfigError(
      f'--bfloat16: this codec is then {ratio:.1f} dB from float32, less than '
      f'{codec_report.BFLOAT16_LIMIT:g}; leave it out'
    )
  return codec.with_dtype('bfloat16')


def report_on(codec: Codec, args: argparse.Namespace) -> None:
  """Writes a page with quality against bit rate, codebook usage, sounds and spectrograms."""
  from v2meow_jax.evaluation import codec_report

  if args.clips < 1 or args.seconds <= 0:
    raise errors.ConfigError('--clips and --seconds must be positive')
  paths = [args.audio]
  if args.audio.is_dir():
    paths = sorted(path for path in args.audio.rglob('*') if path.suffix.lower() in AUDIO_SUFFIXES)
  clips: dict[str, np.ndarray] = {}
  for path in paths[:: max(1, len(paths) // args.clips)]:
    about = probe.probe(path).audio
    if about is None:
      warnings.warn(f'{path}: it has no sound, so it is passed over', stacklevel=1)
      continue
    middle = max(0.0, (float(about.duration) - args.seconds) / 2)
    sound, _ = audio_files.load_audio(path, codec.sample_rate, codec.channels, middle, args.seconds)
    if not np.isfinite(sound).all() or not sound.any() or len(sound) < 4096:
      warnings.warn(f'{path}: silent, damaged or too short in its middle, so it is passed over', stacklevel=1)
      continue
    clips[path.stem if path.stem not in clips else str(path)] = sound
    if len(clips) == args.clips:
      break
  if not clips:
    raise errors.MediaError(f'{args.audio}: no audio that can be measured is there')
  report = codec_report.write(args.out, codec, clips)
  for what, yes in report['answer'].items():
    print(f'{"yes" if yes else "no":<4}{what}')
  for point in report['points']:
    told = '  '.join(f'{name} {value:.3f}' for name, value in point['measures'].items())
    print(f'{point["name"]:<16}{point["bit_rate"] / 1000:>7.2f} kbit/s  {told}')
  print(f'bfloat16 against float32: {report["bfloat16_snr"]:.1f} dB\n{args.out / "index.html"}')


if __name__ == '__main__':
  sys.exit(cli.run(main, sys.argv[1:]))
