"""`v2meow plan`: counts and bytes against sums made by hand."""

import dataclasses
import time

import jax
import numpy as np
import optax
import pytest
import small

from v2meow_jax import cli, errors
from v2meow_jax.codec.trainable import CodecTrainable
from v2meow_jax.experiment import planning
from v2meow_jax.models.trainable import StageTrainable
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.partitioning import Partitioner
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream
from v2meow_jax.training.guard import Guard

MOTION, TOKENS = Stream('video/motion', 'embedding', 4, 3), Stream('audio/acoustic', 'tokens', 5, 2, 16)
STAGE = Stage('plan', (Condition(MOTION),), Target(TOKENS, None, 'delay'), 2)
LAYERS, WIDTH, HEADS, MLP, BATCH = 3, 32, 4, 48, 16
CONFIG = TransformerConfig(LAYERS, WIDTH, HEADS, MLP)


class Shapes:
  """Shapes of batches, without data."""

  batch_size = BATCH

  def shapes(self):
    made = {
      'video/motion': ((8, 3), np.float32), 'video/motion/mask': ((8,), bool),
      'video/motion/offset': ((), np.float32), 'audio/acoustic': ((10, 2), np.int32),
      'audio/acoustic/mask': ((10,), bool), 'audio/acoustic/offset': ((), np.float32),
    }  # fmt: skip
    return {name: jax.ShapeDtypeStruct((BATCH, *shape), kind) for name, (shape, kind) in made.items()}


# Matrices of a layer that are split over fsdp x tensor, and vectors, which lie on `embed` or nowhere.
MATRICES = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * MLP)
TABLES = 2 * 2 * 16 * WIDTH  # embedding and head, of two levels of 16 codes
EMBED = (2 * LAYERS + 1) * WIDTH + 3 * WIDTH + 3 * WIDTH  # norms; first, null and mark; projection
HEAD_NORMS = LAYERS * 2 * (WIDTH // HEADS)
PARAMETERS = MATRICES + TABLES + EMBED + HEAD_NORMS
BATCH_BYTES = BATCH * (4 * 8 * 3 + 8 + 4 + 4 * 10 * 2 + 10 + 4)
COUNTERS = 4 * 5  # step, Adam's count; the guard's mean, seen and bad


def estimate(partitioner=Partitioner(), kind='v5e', devices=1, optimizer=None, **config):  # noqa: B008 (frozen)
  made = StageTrainable(STAGE, dataclasses.replace(CONFIG, **config), optimizer or optax.adamw(1e-3))
  return planning.estimate(made, Shapes(), partitioner, Guard(), kind, devices)


@pytest.mark.parametrize('scan', [False, True])
def test_parameters_and_bytes_on_one_device_are_those_counted_by_hand(scan):
  found = estimate(scan_layers=scan)
  assert found.parameters == PARAMETERS
  assert found.state == 3 * 4 * PARAMETERS + COUNTERS  # parameters and two moments, float32
  assert found.gradients == 4 * PARAMETERS
  assert found.batch == BATCH_BYTES
  assert found.mesh == {'data': 1, 'fsdp': 1, 'tensor': 1}
  assert found.available == 16 * 2**30
  assert found.total == found.state + found.batch + found.gradients + found.activations


def test_what_is_planned_is_what_a_run_makes():
  made = StageTrainable(STAGE, CONFIG, optax.adamw(1e-3), ema_decay=0.9)
  found = planning.estimate(made, Shapes(), Partitioner(), Guard(), 'v5e', 1)
  batch = {name: np.zeros((1, *x.shape[1:]), x.dtype) for name, x in Shapes().shapes().items()}
  state = jax.eval_shape(made.init, jax.random.key(0), batch)
  assert found.state == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) + 12


@pytest.mark.parametrize('scan', [False, True])
def test_bytes_on_a_mesh_are_split_as_the_rules_say(scan):
  found = estimate(Partitioner((2, 4, 2)), devices=16, scan_layers=scan)
  assert found.mesh == {'data': 2, 'fsdp': 4, 'tensor': 2}
  each = (MATRICES + TABLES) / 8 + EMBED / 4 + HEAD_NORMS
  # The projection's kernel is [3, width] over (none, embed).
  assert found.gradients == 4 * each
  assert found.state == 3 * 4 * each + COUNTERS
  assert found.batch == BATCH_BYTES / 8
  assert found.parameters == PARAMETERS
  slices = estimate(Partitioner((1, 4, 2), (2, 1, 1)), devices=16, scan_layers=scan)
  assert dataclasses.replace(slices, mesh=found.mesh) == found and slices.mesh == found.mesh


def test_copies_hold_everything_and_share_the_batch():
  found = estimate(devices=8)
  assert found.mesh == {'data': 8, 'fsdp': 1, 'tensor': 1}
  assert found.state == 3 * 4 * PARAMETERS + COUNTERS
  assert found.batch == BATCH_BYTES / 8


def test_an_optimiser_without_moments_needs_less():
  found = estimate(optimizer=optax.sgd(0.1))
  assert found.state == 4 * PARAMETERS + COUNTERS - 4


def test_time_is_work_over_half_the_peak():
  found = estimate(devices=8, kind='H100')
  # Two a weight and element forward, thrice that with the gradient; 8 + 11 elements, the head 20 tokens.
  length, prefix = 19, 8
  layer = 2 * (4 * WIDTH**2 + 3 * WIDTH * MLP) * length
  attention = 4 * WIDTH * (prefix**2 + (length**2 - prefix**2) / 2)
  forward = LAYERS * (layer + attention) + 2 * WIDTH * 16 * 20
  assert found.model_flops == 3 * forward * BATCH
  np.testing.assert_allclose(found.seconds, found.model_flops / (8 * 989e12 / 2), rtol=1e-12)
  assert found.tokens == BATCH * 20


def test_activations_shrink_with_remat_microbatches_and_devices():
  sizes = [estimate(remat=remat).activations for remat in ('none', 'minimal', 'full')]
  assert sizes[0] > sizes[1] > sizes[2] > 0
  # `full` keeps the input of every layer, of 19 elements, for the 16 examples.
  assert sizes[2] > 4 * BATCH * 19 * WIDTH * LAYERS
  assert estimate(devices=8).activations == sizes[0] / 8
  assert estimate(dtype='bfloat16').activations < sizes[0]
  made = StageTrainable(STAGE, CONFIG, optax.adamw(1e-3), microbatches=4)
  parts = planning.estimate(made, Shapes(), Partitioner(), Guard(), 'v5e', 1)
  assert parts.activations == sizes[0] / 4


def test_a_codec_has_a_plan_without_activations():
  codec = small.make_codec()
  made = CodecTrainable(codec.config, optax.adam(1e-3), ring=64)

  class Sound:
    batch_size = 2

    def shapes(self):
      return {'audio/waveform': jax.ShapeDtypeStruct((2, 8000, 1), np.int16)}

  found = planning.estimate(made, Sound(), Partitioner(), Guard(), 'H200', 1)
  assert found.parameters == sum(np.size(leaf) for leaf in jax.tree.leaves(codec.weights))
  assert (found.batch, found.model_flops, found.seconds) == (2 * 8000 * 2, None, None)
  assert '1 x H200' in str(found) and 'FLOPs' not in str(found)


def test_too_little_memory_is_said():
  found = dataclasses.replace(estimate(), activations=0.0, gradients=0.0, batch=0.0)
  fits = dataclasses.replace(found, state=16 * 2**30)
  assert 'does not fit' not in str(fits)
  assert 'it does not fit: raise microbatches or fsdp' in str(dataclasses.replace(fits, batch=1.0))
  assert 'does not fit' not in str(dataclasses.replace(fits, batch=1.0, available=None))


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
  with pytest.raises(errors.ConfigError, match='do not fit 6 devices'):
    estimate(Partitioner((-1, 4, 1)), devices=6)


@pytest.mark.parametrize(
  ('topology', 'found'), [('v5e:16x16', ('v5e', 256)), ('v5p:4x4x4', ('v5p', 64)), ('H100:8', ('H100', 8))]
)
def test_topologies_are_read(topology, found):
  assert planning.parse_topology(topology) == found


@pytest.mark.parametrize('topology', ['v5e', 'v5e:', 'v5e:16x', 'v5e:axb', 'v9z:4x4', 'h100:8', '16x16', ''])
def test_what_is_no_topology_is_told_with_the_kinds(topology):
  with pytest.raises(errors.ConfigError, match='kinds: v5e, v5p') as told:
    planning.parse_topology(topology)
  assert f'--topology={topology}:' in str(told.value) and '\n' not in str(told.value)


# The command.


@pytest.fixture(autouse=True)
def forget_gin():
  import gin

  yield
  gin.clear_config()


def run(capsys, *arguments):
  status = cli.main(['plan', *arguments])
  return status, *capsys.readouterr()


def test_a_recipe_is_planned_within_seconds(capsys):
  began = time.monotonic()
  status, out, _ = run(capsys, '--gin_file=recipes/v2meow_semantic.gin', '--topology=v5e:16x16')
  # A second or two on an idle machine.
  assert status == 0 and time.monotonic() - began < 60
  assert '256 x v5e, mesh data=256 fsdp=1 tensor=1' in out and 'does not fit' not in out
  # 24 layers of 4 x 1024 x 1024 and 3 x 1024 x 4096; embedding and head of 1024 codes; projections of 768
  # and 1024; seven vectors and two norms a layer.
  by_hand = 24 * (4 * 1024**2 + 3 * 1024 * 4096 + 2 * 1024 + 2 * 64) + 2 * 1024**2 + (768 + 1024 + 6) * 1024
  assert f'parameters   {by_hand / 1e6:.1f} million' in out


def test_a_recipe_that_is_too_large_is_said_to_be(capsys):
  arguments = ('--gin_file=recipes/v2meow_xl_coarse.gin', '--topology=v5e:1x1')
  status, out, _ = run(capsys, *arguments)
  assert status == 0 and 'it does not fit: raise microbatches or fsdp' in out


def test_no_devices_at_all_are_told_in_a_sentence(capsys):
  status, _, err = run(capsys, '--gin_file=recipes/tiny_semantic.gin', '--topology=v5e:0')
  assert status == 2 and err.count('\n') == 1


def test_wrong_arguments_are_told_in_a_sentence(capsys):
  status, out, err = run(capsys, '--gin_file=recipes/v2meow_semantic.gin', '--topology=v5e:16by16')
  assert (status, out, err.count('\n')) == (2, '', 1) and err.startswith('v2meow: --topology=v5e:16by16')
  status, _, err = run(
    capsys,
    '--gin_file=recipes/v2meow_semantic.gin',
    '--gin.train.partitioner=@Partitioner()',
    '--gin.Partitioner.ici_mesh_shape=(3, 1, 1)',
    '--topology=v5e:2x2',
  )
  assert status == 2 and 'do not fit 4 devices' in err and err.count('\n') == 1
