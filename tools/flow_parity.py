"""Optical flow here and in OpenCV against a known warp: error in pixels, and pairs a core-second.

    python tools/flow_parity.py --side=256 --pairs=16
    python tools/flow_parity.py --fixture=tests/encoders/fixtures/flow.npz

Needs opencv-contrib-python-headless (TV-L1 is in its contributed part).
"""

import argparse
import time

import cv2
import numpy as np
import scipy.ndimage

from v2meow_jax.encoders import flow

MARGIN = 8  # pixels of the edge, where what comes into the picture has no flow, are not counted


def scene(side: int, pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Textures that are moved by smooth fields of up to 4 pixels: (first, second, flow)."""
  rng = np.random.default_rng(seed)
  first, second, flows = [], [], []
  rows, columns = np.mgrid[:side, :side].astype(np.float64)
  for _ in range(pairs):
    texture = sum(
      scale * scipy.ndimage.gaussian_filter(rng.standard_normal((side, side)), scale, mode='wrap')
      for scale in (1, 2, 4, 8, 16)
    )
    texture = 127 + 50 * texture / texture.std()
    field = scipy.ndimage.gaussian_filter(rng.standard_normal((2, side, side)), (0, side / 8, side / 8))
    field = 4 * field / np.abs(field).max()
    # The second picture at x + u(x) is the first at x: u is found by fixed-point iteration.
    back = np.zeros_like(field)
    for _ in range(30):
      back = np.stack(
        [
          -scipy.ndimage.map_coordinates(f, [rows + back[1], columns + back[0]], order=1, mode='nearest')
          for f in field
        ]
      )
    moved = scipy.ndimage.map_coordinates(
      texture, [rows + back[1], columns + back[0]], order=3, mode='nearest'
    )
    first.append(texture)
    second.append(moved)
    flows.append(field.transpose(1, 2, 0))
  as_bytes = lambda x: np.clip(np.round(x), 0, 255).astype(np.uint8)  # noqa: E731
  return as_bytes(np.stack(first)), as_bytes(np.stack(second)), np.stack(flows).astype(np.float32)


def error(found: np.ndarray, wanted: np.ndarray) -> float:
  """Mean distance in pixels."""
  inner = (slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
  return float(np.linalg.norm(found - wanted, axis=-1)[inner].mean())


def of_opencv(maker, first: np.ndarray, second: np.ndarray) -> np.ndarray:
  return np.stack([maker.calc(a, b, None) for a, b in zip(first, second, strict=True)])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--side', type=int, default=256)
  parser.add_argument('--pairs', type=int, default=16)
  parser.add_argument('--fixture', help='write a small scene with what OpenCV makes of it')
  args = parser.parse_args()
  cv2.setNumThreads(1)
  reference = cv2.optflow.DualTVL1OpticalFlow_create()
  if args.fixture:
    first, second, wanted = scene(64, 1, seed=5)
    found = of_opencv(reference, first, second)
    np.savez_compressed(
      args.fixture,
      first=first,
      second=second,
      flow=wanted.astype(np.float16),
      opencv=found.astype(np.float16),
    )
    return
  first, second, wanted = scene(args.side, args.pairs)
  print(f'standing still: {np.linalg.norm(wanted, axis=-1).mean():.3f} px')
  ways = {
    'TV-L1, OpenCV': lambda: of_opencv(reference, first, second),
    'TV-L1, here': lambda: np.asarray(flow.tvl1(first, second)),
    'DIS, OpenCV': lambda: flow.dis(first, second),
  }
  for name, way in ways.items():
    found = way()
    start = time.process_time()
    found = way()
    print(
      f'{name}: {error(found, wanted):.3f} px, {len(first) / (time.process_time() - start):.1f} pairs/core-s'
    )


if __name__ == '__main__':
  main()
