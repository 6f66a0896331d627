"""musicnn against the package's graph in TensorFlow, on random weights."""

import librosa
import numpy as np
import pytest
from musicnn_weights import random_weights

from v2meow_jax import errors
from v2meow_jax.encoders import musicnn


def of_tensorflow(arrays, x):
  """(embedding, logits) as the package builds them."""
  tf = pytest.importorskip('tensorflow', reason='part of the extra "train"')

  def norm(n, y):
    name = f'model/batch_normalization_{n}' if n else 'model/batch_normalization'
    parts = (arrays[f'{name}/{part}'] for part in ('moving_mean', 'moving_variance', 'beta', 'gamma'))
    return tf.nn.batch_normalization(y, *parts, 1e-3)

  def conv(n, y, padding):
    name = f'model/conv2d_{n}' if n else 'model/conv2d'
    made = tf.nn.conv2d(y, arrays[f'{name}/kernel'], 1, padding) + arrays[f'{name}/bias']
    return norm(n + 1, tf.nn.relu(made))

  def padded(y):
    return tf.pad(y, [[0, 0], [3, 3], [0, 0], [0, 0]])

  first = norm(0, x[..., None])
  front = [tf.reduce_max(conv(n, padded(first), 'VALID'), 2) for n in (0, 1)]
  front += [tf.reduce_max(conv(n, first, 'SAME'), 2) for n in (2, 3, 4)]
  front = tf.concat(front, 2)[..., None]
  one = tf.transpose(conv(5, padded(front), 'VALID'), [0, 1, 3, 2])
  two = tf.transpose(conv(6, padded(one), 'VALID'), [0, 1, 3, 2]) + one
  three = tf.transpose(conv(7, padded(two), 'VALID'), [0, 1, 3, 2]) + two
  heard = tf.concat([front, one, two, three], 2)
  pooled = tf.concat([tf.reduce_max(heard, 1), tf.reduce_mean(heard, 1)], 2)
  flat = norm(9, tf.reshape(pooled, [len(x), -1]))
  dense = norm(10, tf.nn.relu(flat @ arrays['model/dense/kernel'] + arrays['model/dense/bias']))
  return dense.numpy(), (dense @ arrays['model/dense_1/kernel'] + arrays['model/dense_1/bias']).numpy()


def test_the_network_is_the_packages():
  arrays = random_weights()
  x = np.random.default_rng(1).uniform(0, 3, (2, 40, 96)).astype(np.float32)
  found = musicnn.apply(musicnn.checked(arrays), x)
  for made, wanted in zip(found, of_tensorflow(arrays, x), strict=True):
    # Sums of up to 1,506 float32.
    np.testing.assert_allclose(made, wanted, atol=3e-6 * np.abs(wanted).max())
  del arrays['model/batch_normalization_10/beta']
  with pytest.raises(errors.ConfigError, match='batch_normalization_10/beta'):
    musicnn.checked(arrays)


def test_the_spectrogram_is_librosas_in_half_precision():
  sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
  mel = librosa.feature.melspectrogram(
    y=sound, sr=16000, n_fft=512, hop_length=256, n_mels=96, center=False
  ).T.astype(np.float16)
  mel = mel.astype(np.float32)  # the package takes the logarithm in half precision as well, which overflows
  # A value that lies between two numbers of half precision may go to either.
  np.testing.assert_allclose(musicnn.spectrogram(sound[None])[0], np.log10(10000 * mel + 1.0), atol=1e-3)
