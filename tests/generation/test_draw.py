import jax
import numpy as np
import pytest

from v2meow_jax import errors
from v2meow_jax.generation import draw as draw_lib
from v2meow_jax.sampling import Sampling

compiled = jax.jit(draw_lib.draw, static_argnums=3)


def draw(keys, logits, settings):
  return compiled(keys, logits, settings.knobs(), settings.candidates(logits.shape[-1]))


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    ({'temperature': -0.1}, 'temperature -0.1'),
    ({'temperature': float('inf')}, 'temperature inf'),
    ({'temperature': float('nan')}, 'temperature nan'),
    ({'top_k': -1}, 'top_k -1'),
    ({'top_k': 2.5}, 'top_k 2.5'),
    ({'top_p': 0.0}, 'top_p 0.0'),
    ({'top_p': 1.1}, 'top_p 1.1'),
    ({'top_p': float('nan')}, 'top_p nan'),
    ({'overlap': 1.0}, 'overlap 1.0'),
    ({'overlap': -0.5}, 'overlap -0.5'),
    ({'guidance': (('video', -1.0),)}, 'guidance video=-1.0'),
    ({'guidance': (('video', float('nan')),)}, 'guidance video=nan'),
    ({'guidance': (('video', 1.0), ('video', 2.0))}, 'twice'),
  ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(settings, words):
  with pytest.raises(errors.ConfigError) as caught:
    Sampling(**settings)
  assert words in str(caught.value)
  assert '\n' not in str(caught.value) and '. ' not in str(caught.value)


def logits_of(*shape, seed=0):
  return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def restricted(logits, knobs, candidates=None):
  """Logits as they were, -inf where `restrict` leaves a code out."""
  ranked, places = map(np.asarray, draw_lib.restrict(logits, knobs, candidates))
  assert (ranked[..., :-1] >= ranked[..., 1:]).all()
  found = np.full(logits.shape, -np.inf, np.float32)
  np.put_along_axis(found, places, ranked, -1)
  return found


def kept_by_loop(row, temperature, top_k, top_p):
  """Indices that stay, from the definitions: the k likeliest, then the fewest of these that sum to p."""
  order = sorted(range(len(row)), key=lambda i: -row[i])
  if top_k:
    order = order[:top_k]
  weights = np.exp((row[order].astype(np.float64) - row.max()) / temperature)
  weights /= weights.sum()
  total, kept = 0.0, set()
  for index, weight in zip(order, weights, strict=True):
    if total >= top_p:
      break
    kept.add(index)
    total += weight
  return kept


@pytest.mark.parametrize('temperature', [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
  ('top_k', 'top_p'),
  [(1, 1.0), (5, 1.0), (0, 0.9), (0, 0.3), (0, 0.01), (7, 0.8), (30, 0.95), (100, 1.0), (0, 1.0)],
)
def test_what_stays_is_what_the_definitions_say(temperature, top_k, top_p):
  logits = logits_of(4, 10, 30)
  knobs = Sampling(temperature, top_k, top_p).knobs()
  found = restricted(logits / np.float32(temperature), knobs)
  for i in np.ndindex(4, 10):
    kept = kept_by_loop(logits[i], temperature, top_k, 2.0 if top_p == 1 else top_p)
    assert set(np.flatnonzero(np.isfinite(found[i]))) == kept
    for index in kept:
      assert found[i][index] == pytest.approx(logits[i][index] / temperature, rel=1e-6)  # float32


def test_temperature_zero_takes_the_likeliest_whatever_the_rest():
  logits = logits_of(5, 3, 20)
  for settings in (Sampling(0), Sampling(0, 3, 0.5)):
    tokens = draw(jax.random.split(jax.random.key(0), 5), logits, settings)
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, logits.argmax(-1))


@pytest.mark.parametrize(
  'settings', [Sampling(), Sampling(2.0), Sampling(0.7, 5), Sampling(1.0, 0, 0.8), Sampling(1.5, 6, 0.9)]
)
def test_tokens_come_as_often_as_their_probabilities(settings):
  row, draws = logits_of(8), 20_000
  keys = jax.random.split(jax.random.key(1), draws)
  tokens = np.asarray(draw(keys, np.broadcast_to(row, (draws, 1, 8)), settings))
  kept = kept_by_loop(
    row, settings.temperature, settings.top_k, 2.0 if settings.top_p == 1 else settings.top_p
  )
  expected = np.array([np.exp(row[i] / settings.temperature) if i in kept else 0.0 for i in range(8)])
  expected /= expected.sum()
  counts = np.bincount(tokens.ravel(), minlength=8)
  deviation = np.sqrt(draws * expected * (1 - expected))
  # 5 standard deviations of a binomial count; what is left out never comes.
  assert (np.abs(counts - draws * expected) <= 5 * deviation).all()


def test_a_row_depends_on_its_own_key_and_logits_alone():
  keys = jax.random.split(jax.random.key(0), 4)
  logits = np.zeros((4, 6, 50), np.float32)
  before = np.asarray(draw(keys, logits, Sampling()))
  changed = logits.copy()
  changed[1:] = logits_of(3, 6, 50)
  after = np.asarray(draw(jax.random.split(jax.random.key(7), 4).at[0].set(keys[0]), changed, Sampling()))
  np.testing.assert_array_equal(after[0], before[0])
  assert (after[1:] != before[1:]).any()
  np.testing.assert_array_equal(draw(keys[2:3], logits[2:3], Sampling())[0], before[2])
  # Rows with their own keys, and levels of a row, are drawn each on their own.
  assert len({tuple(row) for row in before}) == 4
  assert len(set(before[0])) > 1


def test_suppressed_codes_are_a_mask_of_their_level_alone():
  banned = Sampling(suppress=((0, 3), ())).banned(3, 4)
  assert banned is not None
  assert banned.tolist() == [[True, False, False, True], [False] * 4, [False] * 4]
  # Levels beyond the target's are not looked at.
  assert Sampling(suppress=((0,), (1,), (2,))).banned(2, 2).tolist() == [[True, False], [False, True]]
  assert Sampling().banned(3, 4) is None and Sampling(suppress=((), ())).banned(2, 4) is None


def test_ranking_is_skipped_only_where_it_changes_nothing():
  assert Sampling().candidates(30) == 0 == Sampling(0, 5, 0.5).candidates(30)
  assert Sampling(top_k=5).candidates(30) == 8 and Sampling(top_p=0.9).candidates(30) == 30
  assert [Sampling(top_k=k).candidates(1000) for k in (1, 2, 3, 100, 5000)] == [1, 2, 4, 128, 1000]


@pytest.mark.parametrize(
  'settings', [Sampling(0.9, 5), Sampling(1.3, 7, 0.8), Sampling(1.0, 1), Sampling(1.0, 29)]
)
def test_few_candidates_give_what_all_would(settings):
  logits, knobs = logits_of(4, 10, 30), settings.knobs()
  few = settings.candidates(30)
  assert few < 30 or settings.top_k > 16
  np.testing.assert_array_equal(restricted(logits, knobs, few), restricted(logits, knobs))


@pytest.mark.parametrize(
  'settings', [Sampling(), Sampling(0.9, 5), Sampling(1.3, 7, 0.8), Sampling(1.0, 0, 0.7)]
)
def test_what_is_drawn_is_what_jax_draws_of_the_logits_that_stay(settings):
  logits, keys = logits_of(40, 3, 30), jax.random.split(jax.random.key(2), 40)
  scaled = logits / np.float32(settings.temperature)
  wanted = jax.vmap(jax.random.categorical)(keys, restricted(scaled, settings.knobs()))
  np.testing.assert_array_equal(draw(keys, logits, settings), wanted)


def test_of_equal_logits_just_k_stay():
  kept = np.isfinite(restricted(np.zeros((2, 3, 30), np.float32), Sampling(top_k=5).knobs()))
  assert (kept.sum(-1) == 5).all() and kept[..., :5].all()
