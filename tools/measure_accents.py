"""Does a cut of the film move an accent of the music: films that differ only in when they are cut.

    python tools/measure_accents.py FILM [FILM ...] --bundle=data/bach --json=FILE

Each pair of films has the same two scenes, drawn from the given films, and is cut at 3.5 s in the one and a
second later in the other; what is drawn for their music is independent. At a cut is measured how far energy
rises (half a second after less half a second before) and how strong the strongest attack is (spectral flux
from 0.1 s before to 0.3 s after, in deviations of the piece). `moved` is that at a film's own cut less the
same at the time of the other's, where nothing happens: above 0 if the accent moves with the cut.
"""

import argparse
import json
import pathlib
import sys
import tempfile
from fractions import Fraction

import av
import numpy as np

from v2meow_jax import errors, terminal
from v2meow_jax.evaluation import bootstrap, features
from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.media import frames, probe

CUTS, SECONDS = (3.5, 4.5), 8.0
RATE, SIZE = Fraction(25), (192, 108)  # of the films that are made


def scene(films: list[str], rng: np.random.Generator) -> np.ndarray:
  """`SECONDS` of pictures from somewhere in one of the films."""
  film = films[rng.integers(len(films))]
  video = probe.probe(film).video
  if video is None or video.duration < SECONDS:
    raise errors.MediaError(f'{film}: it has no {SECONDS:g} s of pictures')
  start = rng.uniform(0, video.duration - SECONDS)
  return np.stack(list(frames.read_frames(film, RATE, SIZE, start, SECONDS)))


def write(pictures: np.ndarray, path: pathlib.Path) -> str:
  """An mp4 of them."""
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=RATE)
    stream.width, stream.height, stream.pix_fmt = *SIZE, 'yuv420p'
    for picture in pictures:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
    container.mux(stream.encode(None))
  return str(path)


def accents(sound: np.ndarray, rate: int, times: tuple[float, ...]) -> dict[str, np.ndarray]:
  """By measure, its value at each of the times."""
  energy = sound.mean(1)

  def level(start: float, stop: float) -> float:
    return 10 * np.log10(np.mean(np.square(energy[round(start * rate) : round(stop * rate)])) + 1e-6)

  mono = energy * features.gain(energy, rate)
  flux = features.spectral_flux(features.spectrum(mono))
  per = features.RATE / features.HOP
  attacks = [flux[round((t - 0.1) * per) : round((t + 0.3) * per)].max() for t in times]
  return {
    'energy': np.array([level(t, t + 0.5) - level(t - 0.5, t) for t in times]),
    'attack': (np.array(attacks) - flux.mean()) / max(float(flux.std()), 1e-6),
  }


def main(argv: list[str]) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('films', nargs='+', metavar='FILM')
  parser.add_argument('--bundle', default='data/bach')
  parser.add_argument('--pairs', type=int, default=32)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--json', type=pathlib.Path)
  args = parser.parse_args(argv)
  if args.pairs < 2:
    parser.error('an interval takes at least two pairs')
  pipeline = Pipeline.load(args.bundle)
  if pipeline.codec.sample_rate != features.RATE:
    raise errors.ConfigError(
      f'a codec at {pipeline.codec.sample_rate} Hz; attacks are measured at {features.RATE}'
    )
  found = []  # of each pair, by measure: [film, time]
  with tempfile.TemporaryDirectory() as folder, terminal.Progress() as progress:
    for n in range(args.pairs):
      rng = np.random.default_rng([args.seed, n])
      one, other = scene(args.films, rng), scene(args.films, rng)
      cuts = [round(cut * RATE) for cut in CUTS]
      films = [
        write(np.concatenate([one[:cut], other[cut:]]), pathlib.Path(folder) / f'{cut}.mp4') for cut in cuts
      ]
      pieces = pipeline.generate_batch([Request(film, seed=n, duration=SECONDS) for film in films])
      told = [accents(piece.audio, piece.sample_rate, CUTS) for piece in pieces]
      found.append({name: np.stack([row[name] for row in told]) for name in told[0]})
      progress.update('pairs', n + 1, args.pairs)
  report = {}
  for name in found[0]:
    values = np.stack([row[name] for row in found])  # [pair, film, time]
    own, elsewhere = values[:, [0, 1], [0, 1]].mean(1), values[:, [0, 1], [1, 0]].mean(1)
    rows = {'own': own, 'elsewhere': elsewhere, 'moved': own - elsewhere}
    report[name] = {key: bootstrap.mean(row).told() for key, row in rows.items()}
    report[name]['pairs'] = float(np.mean(own > elsewhere))
    low, high = report[name]['moved']['interval']
    print(
      f'{name}: at the cut {own.mean():.2f}, where the other film is cut {elsewhere.mean():.2f};', end=' '
    )
    moved = (own - elsewhere).mean()
    print(f'moved {moved:+.2f} [{low:+.2f}, {high:+.2f}], in {report[name]["pairs"]:.0%} of the pairs')
  if args.json:
    args.json.write_text(json.dumps(report, indent=2) + '\n')
  return 0


if __name__ == '__main__':
  sys.exit(terminal.run(main, sys.argv[1:]))
