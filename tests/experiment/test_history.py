"""The configurations of a run from step to step: changes are told, kept, and may be refused."""

import pytest

from v2meow_jax import errors
from v2meow_jax.experiment import history

BEFORE = (
  '# Macros:\nBATCH_SIZE = 8\n\nadamw.b1 = 0.9\n'
  'Stage.conditions = \\\n    (@a/Condition(),\n     @b/Condition())\n'
)


def test_what_has_changed_is_told_and_what_held_before_is_kept(tmp_path, capsys):
  history.record(tmp_path, BEFORE, 'data', 0, allow=False, write=True)
  assert 'adamw.b1 = 0.9' in (tmp_path / 'config.gin').read_text() and not capsys.readouterr().err
  history.record(tmp_path, BEFORE, 'data', 7, allow=False, write=True)
  assert [path.name for path in tmp_path.iterdir()] == ['config.gin'] and not capsys.readouterr().err
  now = BEFORE.replace('0.9', '0.8').replace('@b/', '@c/')
  history.record(tmp_path, now, 'data', 20, allow=False, write=True)
  told = capsys.readouterr().err
  assert 'from step 20 on with' in told and 'adamw.b1 0.9 -> 0.8' in told and '@c/Condition()' in told
  assert 'adamw.b1 = 0.9' in (tmp_path / 'config_until_20.gin').read_text()
  assert 'adamw.b1 = 0.8' in (tmp_path / 'config.gin').read_text()


@pytest.mark.parametrize(
  ('text', 'data', 'words'),
  [
    (BEFORE.replace('= 8', '= 4'), 'data', 'BATCH_SIZE 8 -> 4'),
    (BEFORE + '\ntrain.seed = 3\n', 'data', 'train.seed nothing -> 3'),
    (BEFORE, 'other', 'dataset \\(data -> other\\)'),
  ],
  ids=['batch', 'seed', 'dataset'],
)
def test_what_decides_which_examples_are_seen_changes_only_if_it_is_allowed(tmp_path, text, data, words):
  history.record(tmp_path, BEFORE, 'data', 0, allow=False, write=True)
  before = (tmp_path / 'config.gin').read_bytes()
  with pytest.raises(errors.ConfigError, match=f'{words}.*--allow_changes'):
    history.record(tmp_path, text, data, 5, allow=False, write=True)
  assert (tmp_path / 'config.gin').read_bytes() == before
  history.record(tmp_path, text, data, 5, allow=True, write=True)
  assert (tmp_path / 'config_until_5.gin').read_bytes() == before


def test_who_is_reading_sees_the_whole_of_what_held_before(tmp_path):
  history.record(tmp_path, BEFORE, 'data', 0, allow=False, write=True)
  with open(tmp_path / 'config.gin') as held:
    history.record(tmp_path, BEFORE.replace('0.9', '0.8'), 'data', 7, allow=False, write=True)
    assert 'adamw.b1 = 0.9' in held.read()


def test_another_place_of_the_same_data_is_no_change_of_it(tmp_path):
  history.record(tmp_path, 'DATASET_DIR = "a"\n', 'data', 0, allow=False, write=True)
  history.record(tmp_path, 'DATASET_DIR = "b"\n', 'data', 5, allow=False, write=True)
