"""Writes music as WAV while it is made."""

import time
from collections.abc import Callable, Mapping
from typing import BinaryIO

import numpy as np

from v2meow_jax.generation.pipeline import Pipeline
from v2meow_jax.generation.request import Request
from v2meow_jax.media import audio, loudness
from v2meow_jax.sampling import Sampling


def write(
  pipeline: Pipeline,
  wanted: Request,
  sampling: Mapping[str, Sampling],
  target: float,
  out: BinaryIO,
  tell: Callable[[str], None],
) -> None:
  """Writes a WAV file block by block; the first block's loudness sets the gain of all.

  Args:
    pipeline: makes the music.
    wanted: what is asked for.
    sampling: by stage.
    target: loudness of the first block, in LUFS.
    out: takes the bytes.
    tell: is told how it goes.
  """
  began, gain = time.perf_counter(), None
  for block in pipeline.stream_request(wanted, sampling=sampling):
    if gain is None:
      tell(f'first audio after {time.perf_counter() - began:.1f} s')
      gain = _gain(block, pipeline.codec.sample_rate, target)
      out.write(audio.stream_header(block.shape[1], pipeline.codec.sample_rate))
    out.write(audio.pcm(gain * block))
    out.flush()
  tell(f'{wanted.seconds:.1f} s of music in {time.perf_counter() - began:.1f} s')


def _gain(block: np.ndarray, rate: int, target: float) -> float:
  # What follows may be louder: half the range is left to it.
  scaled = loudness.normalize_loudness(block, rate, target, peak_dbfs=-7.0)
  at = abs(block).argmax()
  return float(scaled.flat[at] / block.flat[at]) if block.flat[at] else 1.0
