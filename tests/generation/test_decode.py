import functools
import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest
from small import decode_crop, random_batch

from v2meow_jax.generation import decode
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.sampling import Sampling
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

MOTION = Stream('video/motion', 'embedding', 4, 3)
ACOUSTIC = Stream('audio/acoustic', 'tokens', 6, 4, 13)
CONFIG = TransformerConfig(layers=2, width=16, heads=2, mlp=24)
BATCH, FRAMES, DEPTH = 3, 6, 3


@functools.cache
def model_of(pattern):
  conditions = (Condition(MOTION), Condition(ACOUSTIC, (0, 1)))
  return StageModel(Stage('test', conditions, Target(ACOUSTIC, (1, 4), pattern), 1), CONFIG)


def batch_of(seed=0):
  rng = np.random.default_rng(seed)
  return {
    MOTION.name: rng.standard_normal((BATCH, 4, 3)).astype(np.float32),
    f'{MOTION.name}/mask': np.ones((BATCH, 4), bool),
    f'{MOTION.name}/offset': np.float32([0, 0.1, -0.1]),
    ACOUSTIC.name: rng.integers(0, 13, (BATCH, FRAMES, 4)).astype(np.int32),
    f'{ACOUSTIC.name}/mask': np.ones((BATCH, FRAMES), bool),
    f'{ACOUSTIC.name}/offset': np.float32([0, -0.05, 0.05]),
  }


def random_like(init, *args):
  """Parameters of the shapes that `init` gives, all of them random: no compilation, and no zeros."""
  rng = np.random.default_rng(0)
  shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), *args))
  return jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


@functools.cache
def params_of(pattern):
  return random_like(model_of(pattern).init, batch_of())['params']


def known_of(count, seed=5):
  return np.random.default_rng(seed).integers(0, 13, (BATCH, count, DEPTH)).astype(np.int32)


def keys_of(seed=0):
  return jax.random.split(jax.random.key(seed), BATCH)


def run(pattern, known, sampling, batch=None, keys=None):
  batch = batch_of() if batch is None else batch
  keys = keys_of() if keys is None else keys
  return decode_crop(model_of(pattern), params_of(pattern), batch, known, keys, sampling)


GREEDY, FREE = Sampling(temperature=0), Sampling()
PATTERNS = pytest.mark.parametrize('pattern', ['flatten', 'delay'])


@pytest.mark.parametrize('count', [0, 4])
@PATTERNS
def test_greedy_tokens_are_the_likeliest_given_those_before(pattern, count):
  known = known_of(count)
  tokens = run(pattern, known, GREEDY)
  assert tokens.shape == (BATCH, FRAMES, DEPTH) and tokens.dtype == np.int32
  np.testing.assert_array_equal(tokens[:, :count], known)
  batch = batch_of()
  batch[ACOUSTIC.name][..., 1:] = tokens
  logits = jax.jit(model_of(pattern).apply)({'params': params_of(pattern)}, batch)
  np.testing.assert_array_equal(tokens[:, count:], np.asarray(logits).argmax(-1)[:, count:])
  assert len(np.unique(tokens[:, count:])) > 1


@PATTERNS
def test_a_crop_that_is_known_whole_comes_back(pattern):
  known = known_of(FRAMES)
  np.testing.assert_array_equal(run(pattern, known, GREEDY), known)


@PATTERNS
def test_the_same_keys_give_the_same_tokens_and_others_give_others(pattern):
  known, count = known_of(4), 4
  one, again, other = (run(pattern, known, FREE, keys=keys_of(seed)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(one, again)
  np.testing.assert_array_equal(other[:, :count], known)
  assert (one[:, count:] != other[:, count:]).mean() > 0.5


@PATTERNS
def test_a_row_does_not_depend_on_the_rest_of_the_batch(pattern):
  known = known_of(4)
  before = run(pattern, known, FREE)
  for kept in range(BATCH):
    batch, others = batch_of(), batch_of(seed=1)
    mixed = {name: others[name].copy() for name in batch}
    mixed_known, mixed_keys = known_of(4, seed=6), keys_of(9)
    for name in batch:
      mixed[name][kept] = batch[name][kept]
    mixed_known[kept] = known[kept]
    mixed_keys = mixed_keys.at[kept].set(keys_of()[kept])
    after = run(pattern, mixed_known, FREE, mixed, mixed_keys)
    np.testing.assert_array_equal(after[kept], before[kept])
    assert (np.delete(after, kept, 0) != np.delete(before, kept, 0)).any()


def test_every_token_is_drawn_from_its_own_key():
  # A uniform model: with one key a step, tokens of different steps would repeat.
  uniform = jax.tree.map(np.zeros_like, params_of('flatten'))
  tokens = decode_crop(model_of('flatten'), uniform, batch_of(), known_of(4), keys_of(), FREE)
  rows = [tuple(row[4:].ravel()) for row in np.asarray(tokens)]
  assert all(len(set(row)) >= 3 for row in rows)  # of 13 codes in 6 draws; 2 or fewer: 1 in 5000
  assert all(a != b for a, b in itertools.combinations(rows, 2))


on_one_cpu = pytest.mark.skipif(
  jax.default_backend() != 'cpu' or jax.device_count() > 1, reason='parts are of one CPU'
)
PARTS = [(32, 2, 2), (32, 64, 2), (64, 3, 2), (96, 3, 3), (33, 2, 1), (32, 1, 1)]


@on_one_cpu
@pytest.mark.parametrize(('rows', 'cores', 'parts'), PARTS)
def test_many_rows_go_in_parts_and_come_back_in_order(rows, cores, parts, monkeypatch):
  calls, whole = [], decode.compiled
  monkeypatch.setattr('v2meow_jax.workers.cores', lambda: cores)
  monkeypatch.setattr(decode, 'compiled', lambda *given, **kw: calls.append(given) or whole(*given, **kw))
  model, params, batch = model_of('delay'), params_of('delay'), random_batch(model_of('delay').stage, rows)
  keys = jax.random.split(jax.random.key(1), rows)
  known = np.random.default_rng(2).integers(0, 13, (rows, 2, DEPTH)).astype(np.int32)
  made = decode_crop(model, params, batch, known, keys, FREE)
  assert [len(given[3]) for given in calls] == [rows // parts] * parts
  for row in (0, rows // 2, rows - 1):
    one = {name: value[row : row + 1] for name, value in batch.items()}
    alone = decode_crop(model, params, one, known[row : row + 1], keys[row : row + 1], FREE)
    np.testing.assert_array_equal(made[row], alone[0])


@on_one_cpu
def test_what_a_block_says_of_jax_holds_for_many_rows_too(monkeypatch):
  calls, whole = [], decode.compiled
  monkeypatch.setattr('v2meow_jax.workers.cores', lambda: 2)
  monkeypatch.setattr(decode, 'compiled', lambda *given, **kw: calls.append(given) or whole(*given, **kw))
  model, rows = model_of('delay'), 32
  batch, keys = random_batch(model.stage, rows), jax.random.split(jax.random.key(1), rows)
  with jax.default_matmul_precision('highest'):
    decode_crop(model, params_of('delay'), batch, np.zeros((rows, 0, DEPTH), np.int32), keys, FREE)
  assert [len(given[3]) for given in calls] == [rows]
