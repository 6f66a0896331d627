"""Sound from MIDI by FluidSynth, and recordings in another key and tempo by FFmpeg."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import av.error
import av.filter
import numpy as np
import soundfile
import soxr
from jaxtyping import Float

from v2meow_jax import errors, files
from v2meow_jax.media import loudness

SOUNDFONT = '/usr/share/sounds/sf2/FluidR3_GM.sf2'  # Debian's fluid-soundfont-gm, MIT
LOUDNESS = -20.0  # LUFS of what is rendered: room for its peaks
_SLOWEST = 2.0  # times real time that FluidSynth may take before it is taken to hang
_BLOCK = 1 << 16


def check_synthesiser(soundfont: str | os.PathLike) -> None:
  """Raises `errors.ConfigError` where FluidSynth or the soundfont is missing."""
  if shutil.which('fluidsynth') is None:
    raise errors.ConfigError(
      'rendering scores needs FluidSynth; install the Debian packages fluidsynth and fluid-soundfont-gm'
    )
  if not pathlib.Path(soundfont).is_file():
    raise errors.ConfigError(f'{soundfont}: there is no such soundfont; name one with --soundfont')


def synthesise(
  midi: pathlib.Path, soundfont: str | os.PathLike, duration: float, sample_rate: int
) -> Float[np.ndarray, 'samples 2']:
  """The sound of a MIDI file, of exactly `duration` seconds, at `LOUDNESS` or as near as its peaks allow.

  FluidSynth is ended when it has written more than that, or takes longer than any machine should: there are
  MIDI files that it never finishes.

  Raises:
    errors.MediaError: it fails, or makes nothing.
  """
  length = round(duration * sample_rate)
  most = 2 * (4 * length + 20 * 4 * sample_rate)  # bytes of 16-bit stereo; twenty seconds more, twice
  with tempfile.TemporaryDirectory() as folder:
    raw = pathlib.Path(folder) / 'a.wav'
    command = [
      'fluidsynth', '-n', '-i', '-q', '-g', '0.25', '-r', str(sample_rate), '-O', 's16', '-T', 'wav',
      '-o', 'synth.cpu-cores=1', '-F', str(raw), str(soundfont), str(midi),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
      until = time.monotonic() + 60 + _SLOWEST * duration
      try:
        while process.poll() is None:
          time.sleep(0.02)
          if (raw.exists() and raw.stat().st_size > most) or time.monotonic() > until:
            raise errors.MediaError(f'{midi}: FluidSynth did not come to an end')
      finally:
        process.kill()
      told = process.stderr.read().decode(errors='replace').strip() if process.stderr else ''
    if process.returncode or not raw.exists():
      last = (told.splitlines() or ['no message'])[-1]
      raise errors.MediaError(f'{midi}: FluidSynth failed ({last[:200]})')
    sound, _ = soundfile.read(raw, dtype='float32', always_2d=True)
  if not sound.any():
    raise errors.MediaError(f'{midi}: FluidSynth made silence')
  sound = np.pad(sound[:length], ((0, max(0, length - len(sound))), (0, 0)))
  fade = min(length, sample_rate // 2)  # what still sounds at the end is not to break off
  sound[length - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)[:, None]
  return loudness.normalize_loudness(sound, sample_rate, LOUDNESS)


def varied(
  sound: Float[np.ndarray, 'samples channels'], sample_rate: int, semitones: float, tempo: float
) -> Float[np.ndarray, 'samples channels']:
  """A recording in another key and tempo.

  Resampling moves both; FFmpeg's `atempo` (overlap-add of waveforms that match) then sets the tempo.

  Args:
    sound: float32.
    sample_rate: in Hz.
    semitones: by which it is to be higher.
    tempo: factor, 0.5 to 2.
  """
  ratio = 2 ** (semitones / 12)
  moved = np.asarray(soxr.resample(sound, ratio * sample_rate, sample_rate), np.float32)  # faster and higher
  factor = tempo / ratio
  wanted = round(len(sound) / tempo)
  if abs(factor - 1) > 1e-6:
    moved = _stretched(moved, sample_rate, factor)
  return np.pad(moved[:wanted], ((0, max(0, wanted - len(moved))), (0, 0)))


def _stretched(sound: np.ndarray, sample_rate: int, factor: float) -> np.ndarray:
  layout = 'mono' if sound.shape[1] == 1 else 'stereo'
  graph = av.filter.Graph()
  source = graph.add_abuffer(sample_rate=sample_rate, format='flt', layout=layout)
  change, sink = graph.add('atempo', f'{factor:.9f}'), graph.add('abuffersink')
  source.link_to(change)
  change.link_to(sink)
  graph.configure()
  made: list[np.ndarray] = []

  def drain() -> None:
    while True:
      try:
        pulled = sink.pull()
        assert isinstance(pulled, av.AudioFrame)
        made.append(pulled.to_ndarray().reshape(-1, sound.shape[1]))
      except (av.error.BlockingIOError, av.error.EOFError):
        return

  for at in range(0, len(sound), _BLOCK):
    block = np.ascontiguousarray(sound[at : at + _BLOCK]).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(block, 'flt', layout)
    frame.sample_rate, frame.pts = sample_rate, at
    source.push(frame)
    drain()
  source.push(None)
  drain()
  return np.concatenate(made) if made else sound[:0]


def write_flac(path: pathlib.Path, sound: Float[np.ndarray, 'samples channels'], sample_rate: int) -> None:
  """Writes 16-bit FLAC, whole or not at all."""
  with files.replaced_when_done(path) as temporary:
    soundfile.write(temporary, np.clip(sound, -1, 1 - 2**-15), sample_rate, 'PCM_16', format='FLAC')
