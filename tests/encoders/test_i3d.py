"""I3D against DeepMind's graph in TensorFlow, and its optical flow against OpenCV and a known warp."""

import sys

import jax
import numpy as np
import published
import pytest
from safetensors.numpy import save_file

from v2meow_jax import errors
from v2meow_jax.encoders import flow, i3d
from v2meow_jax.encoders.driver import NetworkEncoder


def of_tensorflow(arrays, x):
  """(features, logits) by TensorFlow's own layers, as kinetics-i3d builds them."""
  tf = pytest.importorskip('tensorflow', reason='part of the extra "train"')
  arrays = {name.split('/', 2)[2]: value for name, value in arrays.items()}

  def unit(name, y, stride=1):
    if f'{name}/conv_3d/w' not in arrays:
      name = name.replace('0b', '0a')
    y = tf.nn.conv3d(y, arrays[f'{name}/conv_3d/w'], [1, stride, stride, stride, 1], 'SAME')
    mean, variance, beta = (
      arrays[f'{name}/batch_norm/{n}'] for n in ('moving_mean', 'moving_variance', 'beta')
    )
    return tf.nn.relu(tf.nn.batch_normalization(y, mean, variance, beta, None, 1e-3))

  def pool(y, size, stride):
    return tf.nn.max_pool3d(y, [1, *size, 1], [1, *stride, 1], 'SAME')

  y = pool(unit('Conv3d_1a_7x7', x, 2), (1, 3, 3), (1, 2, 2))
  y = pool(unit('Conv3d_2c_3x3', unit('Conv3d_2b_1x1', y)), (1, 3, 3), (1, 2, 2))
  for block in ('3b', '3c', '4b', '4c', '4d', '4e', '4f', '5b', '5c'):
    if block == '4b':
      y = pool(y, (3, 3, 3), (2, 2, 2))
    if block == '5b':
      y = pool(y, (2, 2, 2), (2, 2, 2))
    name = f'Mixed_{block}/Branch_'
    y = tf.concat(
      [
        unit(f'{name}0/Conv3d_0a_1x1', y),
        unit(f'{name}1/Conv3d_0b_3x3', unit(f'{name}1/Conv3d_0a_1x1', y)),
        unit(f'{name}2/Conv3d_0b_3x3', unit(f'{name}2/Conv3d_0a_1x1', y)),
        unit(f'{name}3/Conv3d_0b_1x1', pool(y, (3, 3, 3), (1, 1, 1))),
      ],
      -1,
    )
  side = y.shape[2]
  y = tf.nn.avg_pool3d(y, [1, 2, side, side, 1], 1, 'VALID')
  logits = tf.nn.conv3d(y, arrays['Logits/Conv3d_0c_1x1/conv_3d/w'], [1] * 5, 'SAME')
  logits = logits + arrays['Logits/Conv3d_0c_1x1/conv_3d/b']
  return np.mean(y, (1, 2, 3)), np.mean(logits, (1, 2, 3))


@pytest.mark.parametrize(('kind', 'channels'), [('Flow', 2), pytest.param('RGB', 3, marks=pytest.mark.slow)])
def test_the_network_is_deepminds(kind, channels):
  arrays = published.i3d(kind, shrink=16)
  network, found_channels, params = i3d.converted(arrays)
  assert found_channels == channels
  x = np.random.default_rng(1).uniform(-1, 1, (2, 17, 36, 36, channels)).astype(np.float32)
  features, logits = jax.jit(lambda p, x: network.apply({'params': p}, x))(params, x)
  expected = of_tensorflow(arrays, x)
  # Sums of hundreds of float32 in 22 layers.
  for found, wanted in zip((features, logits), expected, strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-6 * np.abs(wanted).max())
  assert features.shape == (2, 64) and np.std(expected[0]) > 0.05


def test_a_checkpoint_that_is_incomplete_or_of_something_else_is_refused(tmp_path):
  arrays = published.i3d('Flow', shrink=16)
  path = tmp_path / 'flow.safetensors'
  save_file(arrays, path)
  with pytest.raises(errors.ConfigError, match='RGB has 3, flow 2'):
    i3d.I3dNetwork(str(path)).load()
  del arrays['Flow/inception_i3d/Mixed_4d/Branch_1/Conv3d_0b_3x3/batch_norm/beta']
  with pytest.raises(errors.ConfigError, match='Mixed_4d/Branch_1/Conv3d_0b_3x3/batch_norm/beta'):
    i3d.converted(arrays)
  with pytest.raises(errors.ConfigError, match="'farneback'"):
    i3d.FlowNetwork(str(path), method='farneback')
  with pytest.raises(errors.ConfigError, match='crop'):
    i3d.I3dNetwork(str(path), crop=300)


class Film:
  """Pictures of a texture that moves by a pixel each, 25 a second."""

  video = 'film'

  def __init__(self, seconds, side):
    self.duration = seconds
    scene = np.load(published.FIXTURES / 'flow.npz')['first'][0]
    self.pictures = [
      np.repeat(np.roll(scene, n, 1)[:side, :side, None], 3, 2) for n in range(round(25 * seconds))
    ]

  def frames(self, rate, size, cover):
    assert (rate, cover) == (25, True) and size == self.pictures[0].shape[:2]
    return iter(self.pictures)


@pytest.fixture(scope='module')
def thin(tmp_path_factory):
  folder = tmp_path_factory.mktemp('i3d')
  for kind in ('RGB', 'Flow'):
    save_file(published.i3d(kind, shrink=16), folder / f'{kind}.safetensors')
  return folder


@pytest.fixture
def quick(monkeypatch):
  """Fewer pairs at once: untrained pixels go nowhere in particular."""
  monkeypatch.setattr(flow, 'PAIRS', 8)


@pytest.mark.slow
def test_a_clip_of_flow_is_the_networks_of_its_own_flow(thin, quick):
  network = i3d.FlowNetwork(str(thin / 'Flow.safetensors'), seen=25, side=24, crop=20)
  encoder = NetworkEncoder(network, batch=1)
  film = Film(3.0, 24)
  found = encoder.encode_clip(film)
  assert found.shape == (3, encoder.stream.width) and encoder.stream.name == 'video/flow'
  grey = np.stack([picture[..., 0] for picture in film.pictures])
  # The second window holds the flow from pictures 25 to 49; the last goes to picture 50.
  fields = np.concatenate([flow.tvl1(grey[n : n + 8], grey[n + 1 : n + 9]) for n in (25, 33, 41, 42)])
  fields = np.delete(fields, range(24, 31), 0)
  # It moves to the right by a pixel.
  assert np.abs(np.median(fields, (0, 1, 2)) - (1, 0)).max() < 0.1
  plain, _, params = i3d.converted(published.i3d('Flow', shrink=16))
  x = np.clip(fields, -20, 20)[None, :, 2:22, 2:22] / 20
  middle, _ = jax.jit(plain.apply)({'params': params}, x)
  np.testing.assert_allclose(found[1], middle[0], atol=1e-5)


def test_flow_is_as_near_to_a_known_warp_as_that_of_opencv():
  scene = np.load(published.FIXTURES / 'flow.npz')
  wanted, opencv = scene['flow'].astype(np.float32), scene['opencv'].astype(np.float32)
  found = np.asarray(flow.tvl1(scene['first'], scene['second']))
  inner = (slice(None), slice(8, -8), slice(8, -8))

  def error(one, other):
    return np.linalg.norm(one - other, axis=-1)[inner].mean()

  still = np.linalg.norm(wanted, axis=-1)[inner].mean()
  assert still > 1
  assert error(found, wanted) < 1.2 * error(opencv, wanted) < 0.15 * still
  assert error(found, opencv) < 0.15 * still


def test_pictures_become_one_flow_fewer_whatever_the_pieces(quick):
  film = Film(1.0, 24)
  found = list(flow.of_pictures(iter(film.pictures[:19]), 'tvl1'))
  assert len(found) == 18
  grey = np.stack([flow.grey(picture) for picture in film.pictures[:19]])
  whole = np.concatenate([flow.tvl1(grey[n : n + 8], grey[n + 1 : n + 9]) for n in (0, 8, 10)])
  whole = np.delete(whole, range(16, 22), 0)
  np.testing.assert_allclose(np.stack(found), whole, atol=1e-4)
  (none,) = flow.of_pictures(film.pictures[:1], 'tvl1')
  assert not none.any() and not list(flow.of_pictures([], 'tvl1'))


def test_dis_is_opencvs_and_without_it_told(thin, monkeypatch):
  with monkeypatch.context() as gone:
    gone.setitem(sys.modules, 'cv2', None)
    with pytest.raises(errors.ConfigError, match='extra "flow"'):
      i3d.FlowNetwork(str(thin / 'Flow.safetensors'), method='dis').load()
  pytest.importorskip('cv2', reason='the extra "flow" is not installed')
  scene = np.load(published.FIXTURES / 'flow.npz')
  wanted = scene['flow'].astype(np.float32)[:, 8:-8, 8:-8]
  found = flow.dis(scene['first'], scene['second'])[:, 8:-8, 8:-8]
  distance = np.linalg.norm(found - wanted, axis=-1).mean()
  assert distance < 0.3 * np.linalg.norm(wanted, axis=-1).mean()
  pictures = np.repeat(np.concatenate([scene['first'], scene['second']])[..., None], 3, -1)
  (one,) = flow.of_pictures(pictures, 'dis')
  np.testing.assert_array_equal(one[8:-8, 8:-8], found[0])
