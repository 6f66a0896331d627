"""Some of the odd films and mutations that `odd_media.py` and `mutations.py` make without end."""

import mutations
import odd_media
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('first', range(0, 300, 20))
def test_odd_films_are_read_as_they_are_or_refused(tmp_path, first):
  made = 0
  for seed in range(first, first + 20):
    folder = tmp_path / str(seed)
    folder.mkdir()
    made += odd_media.run(seed, folder) is not None
  assert made > 10  # this build of FFmpeg makes most of them


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  return mutations.World(tmp_path_factory.mktemp('world'))


@pytest.mark.parametrize('first', range(0, 1000, 100))
def test_mutations_are_right_or_refused(world, first):
  told = [mutations.run(world, seed) for seed in range(first, first + 100)]
  assert told.count('refused') > 20 and told.count('right') > 5
