"""Is there a seam where windows meet? Spectral flux of generated music there, against everywhere else.

    python tools/measure_seams.py VIDEO WAV --bundle=DIR

WAV is what `v2meow generate VIDEO --bundle=DIR` made with the bundle's own overlap. Flux is the mean absolute
change of the log-mel spectrum from one frame of 16 ms to the next; at a seam, as anywhere else, the greatest
within 40 ms counts.
"""

import argparse
import sys
from fractions import Fraction

import librosa
import numpy as np

from v2meow_jax import bundles
from v2meow_jax.generation import windows
from v2meow_jax.media import audio, probe


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('video')
  parser.add_argument('wav')
  parser.add_argument('--bundle', required=True)
  args = parser.parse_args()
  sound, rate = audio.load_audio(args.wav)
  hop = round(0.016 * rate)
  mel = librosa.feature.melspectrogram(y=sound[:, 0], sr=rate, n_fft=4 * hop, hop_length=hop, n_mels=64)
  flux = np.abs(np.diff(np.log(mel + 1e-5), axis=1)).mean(0)
  reach = round(0.04 * rate / hop)
  peaks = np.array([flux[max(0, n - reach) : n + reach + 1].max() for n in range(len(flux))])
  info = probe.probe(args.video).video
  assert info is not None
  duration = Fraction(min(info.duration, len(sound) / rate)).limit_denominator(10**6)
  print('| stage | seams | flux there, median | elsewhere, median | share of elsewhere that is above |')
  print('|---|---|---|---|---|')
  for runner in bundles.load(args.bundle).stages():
    layout = windows.layout(runner.stage, duration, runner.sampling.overlap)
    # New frames begin where those of the window before end.
    seams = np.array([window.stop for window in layout.windows[:-1]]) / float(runner.stage.target.stream.rate)
    at = np.round(seams * rate / hop).astype(int)
    at = at[at < len(peaks)]
    apart = np.abs(np.arange(len(peaks))[:, None] - at).min(1) > 4 * reach
    there, elsewhere = np.median(peaks[at]), peaks[apart]
    print(
      f'| {runner.stage.name} | {len(at)} | {there:.3f} | {np.median(elsewhere):.3f} | '
      f'{np.mean(elsewhere > there):.0%} |'
    )


if __name__ == '__main__':
  sys.exit(main())
