import dataclasses
import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import random_batch

from v2meow_jax import stages
from v2meow_jax.models import conditioning, layout
from v2meow_jax.models.stage_model import StageModel
from v2meow_jax.models.transformer import TransformerConfig
from v2meow_jax.stages import Condition, Stage, Target
from v2meow_jax.streams import Stream

ROPE = TransformerConfig(layers=2, width=16, heads=2, mlp=24)
COUNTED = TransformerConfig(layers=2, width=16, heads=2, mlp=24, time_aligned=False)
RELATIVE = TransformerConfig(2, 16, 2, 24, positions='relative', time_aligned=False, qk_norm=False)

MOTION = Stream('video/motion', 'embedding', 4, 3)
STYLE = Stream('video/style', 'embedding', 0, 5)
ACOUSTIC = Stream('audio/acoustic', 'tokens', 5, 5, 11)
CONDITIONS = (Condition(ACOUSTIC, (0, 2)), Condition(MOTION), Condition(STYLE))
# Of streams that are slower, faster and without a rate, tokens among them, beside a prefix.
FAST = Stream('video/events', 'embedding', 12, 2)
ALIGNED = (
  Condition(ACOUSTIC, (0, 2), placement='aligned', context='0.3'),
  Condition(MOTION, placement='aligned'),
  Condition(MOTION),
  Condition(FAST, placement='aligned', context=0),
  Condition(STYLE, placement='aligned'),
)
BATCH = 2


def stage_of(pattern, conditions=CONDITIONS):
  return Stage('test', conditions, Target(ACOUSTIC, (2, 5), pattern), 1)  # 5 frames of 3 levels


def batch_of(stage, seed=0):
  return random_batch(stage, BATCH, seed)


def random_like(init, *args):
  """Parameters of the shapes that `init` gives, all of them random: no compilation, and no zeros."""
  rng = np.random.default_rng(0)
  shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), *args))
  return jax.tree.map(lambda x: (0.3 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


@functools.cache
def params_of(stage, config):
  return random_like(StageModel(stage, config).init, batch_of(stage))


@functools.partial(jax.jit, static_argnums=(0, 1))
def forward(stage, config, params, batch, dropped=None):
  return StageModel(stage, config).apply(params, batch, dropped)


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def cached(stage, config, params, batch, count):
  """Logits of steps `count` on [steps, batch, tokens a step, codes], by prefill and single steps."""
  apply = functools.partial(StageModel(stage, config).apply, params, batch)
  given, _ = stages.to_steps(stage.target, batch[ACOUSTIC.name][..., slice(*stage.target.levels)])
  capacity = stage.prefix_length + stage.steps
  logits, cache = apply(given[:, :count], capacity, method='prefill')

  def advance(cache, step):
    # What stands in the gaps of a delay must not matter.
    tokens = jnp.take(given, step - 1, 1)
    if stage.target.pattern == 'delay':
      frame = step - 1 - jnp.arange(3)
      tokens = jnp.where((frame < 0) | (frame >= stage.frames), 7, tokens)
    logits, cache = apply(tokens, step, cache, method='decode_step')
    return cache, logits

  _, rest = jax.lax.scan(advance, cache, jnp.arange(count + 1, stage.steps))
  return jnp.concatenate([logits[None], rest])


MODELS = [
  ('flatten', ROPE, CONDITIONS, 0),
  ('delay', ROPE, CONDITIONS, 2),
  ('flatten', RELATIVE, CONDITIONS, 2),
  ('delay', RELATIVE, CONDITIONS, 0),
  ('flatten', COUNTED, (), 2),
  ('delay', ROPE, (), 0),
  ('flatten', RELATIVE, (), 0),
  ('delay', RELATIVE, (), 2),
  ('flatten', ROPE, ALIGNED, 2),
  ('delay', ROPE, ALIGNED, 0),
  ('delay', RELATIVE, ALIGNED, 2),
]


@pytest.mark.parametrize(('pattern', 'config', 'conditions', 'known'), MODELS)
def test_decoding_with_a_cache_gives_the_teacher_forced_logits_of_every_token(
  pattern, config, conditions, known
):
  stage = stage_of(pattern, conditions)
  batch, params = batch_of(stage), params_of(stage, config)
  whole = np.asarray(forward(stage, config, params, batch))
  assert whole.shape == (BATCH, 5, 3, 11)
  count = known * 3 if pattern == 'flatten' else known
  single = np.asarray(cached(stage, config, params, batch, count))
  compared = 0
  for frame, level in itertools.product(range(5), range(3)):
    step = frame * 3 + level if pattern == 'flatten' else frame + level
    if step < count:
      continue
    found = single[step - count, :, 0 if pattern == 'flatten' else level]
    # The same sums in another order, float32, on logits of unit size.
    np.testing.assert_allclose(found, whole[:, frame, level], atol=1e-4)
    compared += 1
  # A delayed level k of frame f is step f + k: the first two steps hold three tokens.
  assert (
    compared == {(0, 'flatten'): 15, (2, 'flatten'): 9, (0, 'delay'): 15, (2, 'delay'): 12}[known, pattern]
  )


# The same sums in another order, of logits of unit size.
@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-4), ('bfloat16', 0.1)])
@pytest.mark.parametrize('pattern', stages.PATTERNS)
def test_turned_kernels_give_the_same_logits(pattern, dtype, tolerance):
  stage, turned = stage_of(pattern), dataclasses.replace(ROPE, transposed=True, dtype=dtype)
  batch, params = batch_of(stage), params_of(stage, ROPE)
  other = {'params': layout.transpose_kernels(params['params'])}
  assert jax.tree.map(np.shape, other) == jax.tree.map(np.shape, params_of(stage, turned))
  for run, rest in ((forward, ()), (cached, (1,))):
    wanted, found = run(stage, ROPE, params, batch, *rest), run(stage, turned, other, batch, *rest)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=tolerance)


def test_levels_of_a_step_are_added_before_they_are_rounded():
  stage = stage_of('delay')
  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), params_of(stage, ROPE))
  tokens = np.random.default_rng(1).integers(0, 11, (BATCH, 40, 3))
  model = StageModel(stage, dataclasses.replace(ROPE, dtype='bfloat16'))
  found = model.apply(params, tokens, np.ones((40, 3), bool), method='embed_steps')
  table = np.asarray(params['params']['embedding'], np.float64)
  wanted = sum(table[level, tokens[..., level]] for level in range(3))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, np.asarray(wanted, np.float32).astype(jnp.bfloat16))


@pytest.mark.parametrize('pattern', stages.PATTERNS)
def test_a_token_changes_what_comes_after_it_only(pattern):
  stage = stage_of(pattern)
  batch, params = batch_of(stage), params_of(stage, ROPE)
  # Given levels of the same stream are a condition: leave them out of the comparison by a fixed prefix.
  before = np.asarray(forward(stage, ROPE, params, batch))
  for frame, level in ((0, 0), (2, 1), (3, 2)):
    changed = batch | {ACOUSTIC.name: batch[ACOUSTIC.name].copy()}
    changed[ACOUSTIC.name][:, frame, 2 + level] += 1
    changed[ACOUSTIC.name] %= 11
    same = (np.asarray(forward(stage, ROPE, params, changed)) == before).all((0, 3))
    for f, k in itertools.product(range(5), range(3)):
      if pattern == 'flatten':
        later = (f, k) > (frame, level)
      else:
        later = f + k > frame + level
      assert same[f, k] != later


@pytest.mark.parametrize('name', [s.name for s in (MOTION, STYLE)])
def test_a_condition_reaches_the_first_token(name):
  stage = stage_of('flatten')
  batch, params = batch_of(stage), params_of(stage, ROPE)
  before = forward(stage, ROPE, params, batch)
  changed = batch | {name: batch[name].copy()}
  changed[name][:, -1] += 1  # the last element of the prefix, for the style
  assert np.abs(forward(stage, ROPE, params, changed) - before)[:, 0, 0].max() > 1e-4


def with_other_values(batch, name, where=np.s_[:]):
  """The batch with other values in part of a condition; of tokens, in the given levels only."""
  other = batch_of(stage_of('flatten'), seed=1)[name]
  values = batch[name].copy()
  if name == ACOUSTIC.name:
    values[:, where, :2] = other[:, where, :2]
  else:
    values[:, where] = other[:, where]
  return batch | {name: values}


@pytest.mark.parametrize(('number', 'name'), [(0, ACOUSTIC.name), (1, MOTION.name), (2, STYLE.name)])
def test_a_dropped_condition_has_no_influence(number, name):
  stage = stage_of('delay')
  batch, params = batch_of(stage), params_of(stage, ROPE)
  dropped = np.zeros((BATCH, 3), bool)
  dropped[0, number] = True
  before = np.asarray(forward(stage, ROPE, params, batch, dropped))
  after = np.asarray(forward(stage, ROPE, params, with_other_values(batch, name), dropped))
  np.testing.assert_array_equal(after[0], before[0])
  assert (after[1] != before[1]).any()  # the example that keeps it
  kept = np.asarray(forward(stage, ROPE, params, batch))
  assert (kept[0] != before[0]).any()


@pytest.mark.parametrize('name', [ACOUSTIC.name, MOTION.name])
def test_a_masked_element_of_a_condition_has_no_influence(name):
  stage = stage_of('delay')
  params = params_of(stage, ROPE)
  batch = batch_of(stage)
  batch[f'{name}/mask'][:, 3:] = False
  before = np.asarray(forward(stage, ROPE, params, batch))
  after = np.asarray(forward(stage, ROPE, params, with_other_values(batch, name, np.s_[3:])))
  np.testing.assert_array_equal(after, before)
  unmasked = np.asarray(forward(stage, ROPE, params, with_other_values(batch, name, np.s_[:3])))
  assert (unmasked != before).any()


@pytest.mark.parametrize('pattern', stages.PATTERNS)
def test_time_aligned_logits_depend_on_differences_of_times_alone(pattern):
  stage = stage_of(pattern)
  batch, params = batch_of(stage), params_of(stage, ROPE)
  before = np.asarray(forward(stage, ROPE, params, batch))
  shifted = {k: v + np.float32(0.73) if k.endswith('/offset') else v for k, v in batch.items()}
  # float32 angles of some tens of radians.
  np.testing.assert_allclose(forward(stage, ROPE, params, shifted), before, atol=1e-4)
  apart = batch | {f'{MOTION.name}/offset': batch[f'{MOTION.name}/offset'] + 0.3}
  assert np.abs(forward(stage, ROPE, params, apart) - before).max() > 1e-3


def test_counted_positions_ignore_offsets():
  stage = stage_of('flatten', ())
  batch, params = batch_of(stage), params_of(stage, COUNTED)
  moved = batch | {f'{ACOUSTIC.name}/offset': batch[f'{ACOUSTIC.name}/offset'] + 1}
  np.testing.assert_array_equal(
    forward(stage, COUNTED, params, moved), forward(stage, COUNTED, params, batch)
  )


def test_positions_are_times_in_steps_of_the_target():
  offset = jnp.asarray([0.0, -0.05])
  found = conditioning.positions(Condition(MOTION), offset, 4, unit=15.0)
  expected = [[15 * i / 4 for i in range(4)], [15 * (i / 4 - 0.05) for i in range(4)]]
  np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32
  still = conditioning.positions(Condition(STYLE), offset, 1, unit=15.0)
  np.testing.assert_allclose(still, [[0], [-0.75]], rtol=1e-6)  # float32


def test_conditions_are_dropped_at_their_own_rates():
  conditions = (Condition(MOTION, dropout=0.3), Condition(STYLE), Condition(ACOUSTIC, (0, 2), dropout=1.0))
  drawn = np.asarray(conditioning.draw_dropped(stage_of('delay', conditions), jax.random.key(0), 10_000))
  assert drawn.shape == (10_000, 3)
  # 5 standard deviations of a binomial share.
  assert abs(drawn[:, 0].mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 10_000)
  assert not drawn[:, 1].any() and drawn[:, 2].all()


def test_a_model_without_conditions_is_prefilled_from_the_offset_alone():
  stage = stage_of('flatten', ())
  batch = {f'{ACOUSTIC.name}/offset': jnp.zeros(BATCH)}
  known = jnp.zeros((BATCH, 0, 1), jnp.int32)
  model = StageModel(stage, ROPE)
  logits, _ = model.apply(params_of(stage, COUNTED), batch, known, stage.steps, method='prefill')
  assert logits.shape == (BATCH, 1, 11)
