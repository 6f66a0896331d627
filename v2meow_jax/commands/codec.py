"""`v2meow codec`: encodes and decodes files, and reports on how good a codec is."""

import argparse
import pathlib

import numpy as np

from v2meow_jax import bundles, errors, terminal
from v2meow_jax.codec import transcoding
from v2meow_jax.codec.codec import Codec
from v2meow_jax.evaluation import codec_report


def main(argv: list[str]) -> int:
  """Encodes audio to codes, decodes codes to audio, or reports on a codec."""
  parser = argparse.ArgumentParser(prog='v2meow codec', description=main.__doc__)
  ways = parser.add_subparsers(dest='way', required=True)
  encode = ways.add_parser('encode', help='a media file to codes')
  encode.add_argument('file', type=terminal.local_path)
  encode.add_argument('--out', type=terminal.local_path, help='by default the name of FILE with .npz')
  encode.add_argument('--levels', type=int, help='codebook levels to keep, the first ones; all by default')
  encode.add_argument(
    '--strict', action='store_true', help='refuse another sample rate or number of channels'
  )
  decode = ways.add_parser('decode', help='codes to a WAV file')
  decode.add_argument('file', type=terminal.local_path)
  decode.add_argument('--out', type=terminal.local_path, help='by default the name of FILE with .wav')
  decode.add_argument('--bfloat16', action='store_true', help='where it is good enough for this codec')
  report = ways.add_parser('report', help='a page that says whether a codec is trained')
  report.add_argument(
    '--audio', type=terminal.local_path, required=True, help='a folder of media files, or one'
  )
  report.add_argument(
    '--out', type=terminal.local_path, default=pathlib.Path('codec_report'), help='a folder'
  )
  report.add_argument('--clips', type=int, default=8, help='most files that are measured')
  report.add_argument('--seconds', type=terminal.number, default=10.0, help='of each, from its middle')
  for way in (encode, decode, report):
    way.add_argument('--bundle', type=terminal.any_path, required=True, help="a bundle or a codec's run")
  args = parser.parse_args(argv)
  codec = bundles.load_codec(args.bundle)
  {'encode': _encode, 'decode': _decode, 'report': _report}[args.way](codec, args)
  return 0


def _encode(codec: Codec, args: argparse.Namespace) -> None:
  out = args.out or args.file.with_suffix('.npz')
  seconds, levels = transcoding.encode_file(codec, args.file, out, args.levels, args.strict)
  rate = float(codec.stream.rate) * levels * np.log2(codec.stream.codes)
  print(f'{out}: {seconds:.1f} s, {levels} levels, {rate / 1000:.2f} kbit/s')


def _decode(codec: Codec, args: argparse.Namespace) -> None:
  codes, samples = transcoding.read_codes(codec, args.file)
  if args.bfloat16:
    codec = codec_report.narrowed(codec, codes)
  out = args.out or args.file.with_suffix('.wav')
  transcoding.write_audio(codec, codes, samples, out)
  print(f'{out}: {samples / codec.sample_rate:.1f} s at {codec.sample_rate} Hz')


def _report(codec: Codec, args: argparse.Namespace) -> None:
  if args.clips < 1 or args.seconds <= 0:
    raise errors.ConfigError('--clips and --seconds must be positive')
  clips = codec_report.read_clips(codec, args.audio, args.clips, args.seconds)
  report = codec_report.write(args.out, codec, clips)
  for what, yes in report['answer'].items():
    print(f'{"yes" if yes else "no":<4}{what}')
  for point in report['points']:
    told = '  '.join(f'{name} {value:.3f}' for name, value in point['measures'].items())
    print(f'{point["name"]:<16}{point["bit_rate"] / 1000:>7.2f} kbit/s  {told}')
  for name, found in report['agreement'].items():
    print(f'codes that stay the same, {name + ":":<20}{found["value"]:>7.1%}')
  nats = '  '.join(f'{name} {report["nats"][name]["nats_a_second"]:.1f}' for name in codec_report.COSTS)
  print(f'nats a second of held-out audio ({report["nats"]["held_out_seconds"]:.0f} s): {nats}')
  print(f'bfloat16 against float32: {report["bfloat16_snr"]:.1f} dB\n{args.out / "index.html"}')
