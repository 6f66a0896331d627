"""Meshes of virtual devices give what one device gives, with parameters, state and batch really split."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.partitioning import Partitioner, constrain

SHAPES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]
EVERY = [s for s in itertools.product((1, 2, 4, 8), repeat=3) if np.prod(s) == 8]


def run(devices: int, shapes, out, what='stage', wide=True, steps=20, **more) -> dict:
  asked = {'shapes': shapes, 'what': what, 'wide': wide, 'steps': steps, 'out': str(out)} | more
  done = subprocess.run(
    [sys.executable, str(pathlib.Path(__file__).with_name('mesh_program.py')), json.dumps(asked)],
    capture_output=True,
    text=True,
    env=os.environ | {'JAX_NUM_CPU_DEVICES': str(devices), 'JAX_PLATFORMS': 'cpu'},
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def difference(one: dict, other: dict) -> float:
  """Greatest difference between two saved states."""
  a, b = np.load(one['state']), np.load(other['state'])
  assert a.files == b.files
  return max(float(np.max(np.abs(a[name] - b[name]), initial=0)) for name in a.files)


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  return run(1, [(1, 1, 1)], tmp_path_factory.mktemp('one'))['1_1_1']


@pytest.fixture(scope='module')
def many(tmp_path_factory):
  return run(8, SHAPES, tmp_path_factory.mktemp('many'))


@pytest.mark.parametrize('shape', SHAPES)
def test_twenty_steps_on_a_mesh_are_those_of_one_device(one, many, shape):
  found = many['_'.join(map(str, shape))]
  assert one['losses'][-1] < one['losses'][0]
  # float64: sums in another order, through 20 updates.
  assert difference(one, found) < 1e-9
  np.testing.assert_allclose(found['losses'], one['losses'], atol=1e-11)


@pytest.mark.slow
def test_every_other_mesh_scanned_and_in_microbatches_too(one, tmp_path):
  found = run(8, [s for s in EVERY if s not in SHAPES], tmp_path)
  assert len(found) == len(EVERY) - len(SHAPES)
  assert all(difference(one, other) < 1e-9 for other in found.values())
  scanned = run(1, [(1, 1, 1)], tmp_path, scan=True)['1_1_1']
  for other in run(8, EVERY, tmp_path, scan=True).values():
    assert difference(scanned, other) < 1e-9


@pytest.mark.slow
def test_losses_in_float32_are_those_of_one_device(tmp_path):
  single = run(1, [(1, 1, 1)], tmp_path, wide=False)['1_1_1']
  for found in run(8, [(2, 2, 2)], tmp_path, wide=False).values():
    np.testing.assert_allclose(found['losses'], single['losses'], rtol=1e-5)


@pytest.mark.slow
def test_a_codec_on_a_mesh_is_that_of_one_device(tmp_path):
  single = run(1, [(1, 1, 1)], tmp_path, 'codec')['1_1_1']
  # Split over one axis, repeated over another.
  for found in run(4, [(2, 1, 2)], tmp_path, 'codec').values():
    # k-means, codebook averages and replaced codes among it, discriminators and their optimiser.
    assert difference(single, found) < 1e-9


@pytest.mark.slow
def test_a_codec_in_float32_is_that_of_one_device(tmp_path):
  single, shapes = run(1, [(1, 1, 1)], tmp_path, 'codec')['1_1_1'], [(2, 2, 2)]
  # One step from the same state: codes are equal where no frame lies between two of them.
  more = {'wide': False, 'steps': 1, 'from': single['state']}
  narrow = run(1, [(1, 1, 1)], tmp_path, 'codec', **more)['1_1_1']
  for found in run(8, shapes, tmp_path, 'codec', **more).values():
    np.testing.assert_allclose(found['losses'], narrow['losses'], rtol=1e-5)
    assert difference(narrow, found) < 1e-3


@pytest.mark.slow
def test_a_codec_on_every_other_mesh_too(tmp_path):
  single = run(1, [(1, 1, 1)], tmp_path, 'codec')['1_1_1']
  for found in run(8, [(8, 1, 1), (1, 8, 1), (2, 4, 1), (2, 2, 2)], tmp_path, 'codec').values():
    assert difference(single, found) < 1e-9


def test_parameters_moments_and_batch_are_split_by_their_logical_axes(many):
  placed = many['2_2_2']['placed']
  up = 'params/transformer/layer_0/up/kernel'
  assert placed[up] == [['fsdp', 'tensor'], [32, 48], [16, 24]]
  moments = {name: place for name, place in placed.items() if name.endswith(up[7:]) and name != up}
  assert len(moments) == 2  # AdamW's
  assert all(place == placed[up] for place in moments.values())
  out = placed['params/transformer/layer_1/out/kernel']
  assert out == [['tensor', 'fsdp'], [32, 32], [16, 16]]
  assert placed['params/head'][2] == [2, 16, 8]
  assert many['2_2_2']['batch'][0] == 2 and many['8_1_1']['batch'][0] == 1 and many['1_2_4']['batch'][0] == 4
  whole = many['8_1_1']['placed'][up]
  assert whole[1] == whole[2]
  # Data parallelism alone only sums gradients; with fsdp parameters are gathered where they are used.
  assert many['8_1_1']['collectives']['all-reduce'] and not many['8_1_1']['collectives']['all-gather']
  assert many['1_8_1']['collectives']['all-gather']


def test_activations_are_constrained_by_the_partitioner_that_compiles():
  part = Partitioner(devices=tuple(jax.devices()))
  assert part.spec(('batch', 'length', 'embed')) == jax.sharding.PartitionSpec(('data', 'fsdp'), None, None)
  assert part.spec(('batch', 'length', 'heads', 'kv'))[2] == 'tensor'
  x = np.ones((4, 4), np.float32)
  assert constrain(x, 'batch', 'embed') is x  # outside of any


@pytest.mark.parametrize(
  'settings',
  [{'ici_mesh_shape': s} for s in ((3, 1, 1), (-1, -1, 1), (-1, 0, 1), (2, 2), (1, -2, 1), ('a', 1, 1))]
  + [{'dcn_mesh_shape': s} for s in ((3, 1, 1), (0, 1, 1), ())]
  + [{'logical_axis_rules': rules} for rules in ((('batch', 'rows'),), (('batch',),))],
)
def test_a_mesh_that_does_not_fit_is_refused_in_one_sentence(settings):
  with pytest.raises(errors.ConfigError) as told:
    _ = Partitioner(**settings, devices=tuple(jax.devices()[:1] * 8)).mesh
  assert '\n' not in str(told.value) and next(iter(settings)).split('_')[0] in str(told.value)


def test_a_batch_that_does_not_divide_is_refused():
  with pytest.raises(errors.ConfigError, match='batch_size 6 does not divide over 1 devices in 4 micro'):
    Partitioner().check_batch(6, microbatches=4)
  Partitioner().check_batch(8, microbatches=4)
