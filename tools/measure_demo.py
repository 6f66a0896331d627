"""Loudness, spectral centroid, level and silence of sound files, side by side.

python tools/measure_demo.py data/demo/big_buck_bunny.mp4 out/big_buck_bunny.wav
"""

import sys

import librosa
import numpy as np

from v2meow_jax import terminal
from v2meow_jax.media import audio, loudness


def main(argv: list[str]) -> int:
  for path in argv:
    sound, rate = audio.load_audio(path, 16000, 1)
    centroid = librosa.feature.spectral_centroid(y=sound[:, 0], sr=rate)
    flatness = librosa.feature.spectral_flatness(y=sound[:, 0])
    blocks = sound[: len(sound) // 1600 * 1600].reshape(-1, 1600)
    silent = np.mean(np.sqrt(np.mean(blocks**2, 1)) < 1e-3)
    print(
      f'{path}: {len(sound) / rate:.2f} s  loudness {loudness.integrated_loudness(sound, rate):.1f} LUFS  '
      f'peak {np.abs(sound).max():.3f}  centroid {centroid.mean():.0f} Hz (deviation {centroid.std():.0f})  '
      f'flatness {flatness.mean():.4f}  silent tenths of a second {silent:.1%}'
    )
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
