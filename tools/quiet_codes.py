"""Codes that mean silence, level by level: what a bundle's sampling suppresses.

  python tools/quiet_codes.py --dataset=DIR --bundle=BUNDLE > sampling.json

A little silence in the training data is an absorbing state: silence follows silence almost surely, and a
sampled piece never leaves it. Found are, for each level of each token stream, the codes whose frames are on
average below the threshold, and the one that digital silence is encoded as. Printed is the bundle's sampling
with these suppressed, for another `v2meow export --sampling=...`.
"""

import argparse
import dataclasses
import json
import sys

import numpy as np

from v2meow_jax import bundles, terminal
from v2meow_jax.data.dataset import Dataset, read_streams, stream_of


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--dataset', required=True, help='with audio/waveform, audio/semantic, audio/acoustic')
  parser.add_argument('--bundle', required=True)
  parser.add_argument(
    '--below', type=float, default=-40.0, help='dB of full scale, mean over frames of the RMS'
  )
  args = parser.parse_args(argv)
  entries = read_streams(args.dataset)
  names = ('audio/semantic', 'audio/acoustic')
  sound, *streams = (stream_of(entries[name]) for name in ('audio/waveform', *names))
  data = Dataset(args.dataset, 'train', (sound, *streams))
  loaded = bundles.load(args.bundle)
  silence = np.zeros(int(sound.rate), np.float32)
  silent = {names[0]: loaded.semantic().encode(silence), names[1]: loaded.codec().encode(silence[:, None])}
  found = {}
  for stream in streams:
    hop = int(sound.rate / stream.rate)
    decibels, counts = np.zeros((stream.width, stream.codes)), np.zeros((stream.width, stream.codes))
    for clip in range(len(data.clips)):
      samples = data.read(sound, clip)[:, 0].astype(np.float32) / 32768
      codes = data.read(stream, clip)
      length = min(len(samples) // hop, len(codes))
      rms = np.sqrt(np.mean(samples[: length * hop].reshape(length, hop) ** 2, 1))
      for level in range(stream.width):
        np.add.at(decibels[level], codes[:length, level], 20 * np.log10(rms + 1e-6))
        np.add.at(counts[level], codes[:length, level], 1)
    quiet = (decibels / np.maximum(counts, 1) < args.below) & (counts > 0)
    middle = silent[stream.name][len(silent[stream.name]) // 2]
    levels = [sorted({*np.flatnonzero(quiet[k]).tolist(), int(middle[k])}) for k in range(stream.width)]
    share = [float(counts[k, levels[k]].sum() / counts[k].sum()) for k in range(stream.width)]
    found[stream.name] = levels
    print(f'{stream.name}: share of frames {[round(value, 4) for value in share]}', file=sys.stderr)
  sampling = {}
  for runner in loaded.stages():
    target = runner.stage.target
    chosen = dataclasses.asdict(runner.sampling)
    sampling[runner.stage.name] = chosen | {'suppress': found[target.stream.name][slice(*target.span)]}
  print(json.dumps(sampling))
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
